"""The cost of every node, kept beside its outputs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node

from backdoor_pipeline.datasets.whole import JSONDataset
from backdoor_pipeline.hooks.costs import CostHooks, peak_memory_bytes


@pytest.fixture(params=["data", "absolute"])
def hooks(request, tmp_path: Path) -> CostHooks:
    """The hook of a session whose ``data_dir`` is relative to the project, or absolute."""
    data_dir = "data" if request.param == "data" else str(tmp_path / "data")
    loader = SimpleNamespace(typed_parameters=SimpleNamespace(data_dir=data_dir))
    hooks = CostHooks()
    hooks.after_context_created(SimpleNamespace(config_loader=loader, project_path=tmp_path))
    return hooks


def catalog_of(folder: Path) -> DataCatalog:
    return DataCatalog(
        {
            "model": JSONDataset(filepath=str(folder / "data" / "06_models" / "key-1" / "m.json")),
            "table": JSONDataset(filepath=str(folder / "data" / "07_output" / "key-1" / "t.json")),
            "other": JSONDataset(filepath=str(folder / "data" / "07_output" / "key-2" / "t.json")),
            "memory": MemoryDataset(),
        }
    )


@pytest.mark.parametrize(
    ("outputs", "keys"),
    [
        (["model"], ["key-1"]),
        (["model", "table"], ["key-1"]),
        (["table", "other", "memory"], ["key-1", "key-2"]),
        (["memory"], []),
    ],
)
def test_is_written_under_the_keys_of_the_outputs(hooks, tmp_path, outputs, keys) -> None:
    node = Node(lambda: None, None, outputs, name="train")
    hooks.before_node_run(node)
    hooks.after_node_run(node, catalog_of(tmp_path))
    files = sorted(tmp_path.rglob("*.json"))
    assert files == [tmp_path / "data" / ".costs" / key / "train.json" for key in keys]
    for file in files:
        cost = json.loads(file.read_text())
        assert set(cost) == {"wall_seconds", "peak_memory_bytes"}
        assert 0 <= cost["wall_seconds"] < 60


def test_peak_memory_is_that_of_this_process() -> None:
    before = peak_memory_bytes()
    block = bytearray(b"1" * 50_000_000)
    assert peak_memory_bytes() >= max(before, len(block))
