"""What is removed, and what is spared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from backdoor_pipeline.experiments.outputs import (
    LAYER,
    LAYERS,
    are_there,
    keys_of_other_grids,
    outputs_of,
    remove,
    size,
)
from backdoor_pipeline.keys import STAGES


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    for name in ("06_models/a", "06_models/b", "07_model_output/a", ".costs/b", "06_models/c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("12345")
    return tmp_path


def names(folders: list[Path], data_dir: Path) -> list[str]:
    return [str(folder.relative_to(data_dir)) for folder in folders]


def test_outputs_in_all_layers_but_the_spared(data_dir) -> None:
    found = outputs_of(["b", "a", "none"], data_dir)
    assert names(found, data_dir) == ["06_models/a", "06_models/b", "07_model_output/a", ".costs/b"]
    assert names(outputs_of(["a", "b"], data_dir, spared=["a"]), data_dir) == [
        "06_models/b",
        ".costs/b",
    ]
    assert names(outputs_of(["a", "b"], data_dir, models_only=True), data_dir) == [
        "06_models/a",
        "06_models/b",
    ]


def test_removal_leaves_nothing_behind(data_dir) -> None:
    (data_dir / "06_models" / ".a.removed" / "file").mkdir(parents=True)  # somebody was killed
    assert remove(outputs_of(["a"], data_dir), data_dir / ".locks") == []
    assert not [path for path in data_dir.rglob("*a*") if ".locks" not in path.parts]
    assert size(data_dir / "06_models") == 2 * 5


def test_what_a_run_is_writing_stays(data_dir) -> None:
    with FileLock(data_dir / ".locks" / "a.lock"):
        staying = remove(outputs_of(["a", "b"], data_dir), data_dir / ".locks")
    assert names(staying, data_dir) == ["06_models/a", "07_model_output/a"]
    assert names(outputs_of(["a", "b"], data_dir), data_dir) == ["06_models/a", "07_model_output/a"]


def test_outputs_are_there_where_later_stages_look(data_dir) -> None:
    assert are_there({"victim": "a", "reference": "b"}, data_dir)
    assert are_there({"token_drift": "a"}, data_dir)
    assert not are_there({"victim": "a", "btu": "d"}, data_dir)


def test_keys_that_others_need(tmp_path) -> None:
    for grid, keys in (("own", {"victim": "a"}), ("other", {"victim": "b", "btu": "c"})):
        path = tmp_path / grid / "records" / "cell.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"keys": keys}))
    running = tmp_path / "third" / "jobs" / "cell.json"
    running.parent.mkdir(parents=True)
    running.write_text(json.dumps({"about": {"keys": {"victim": "d"}}}))
    shutil.copytree(tmp_path / "own", tmp_path / ".fourth.removed")
    assert keys_of_other_grids(tmp_path, "own") == {"b", "c", "d"}
    assert keys_of_other_grids(tmp_path, "third") == {"a", "b", "c"}


def test_every_stage_has_a_layer() -> None:
    assert set(LAYER) == set(STAGES)
    assert set(LAYER.values()) <= set(LAYERS)
