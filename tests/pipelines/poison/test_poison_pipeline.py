"""The wiring of the stage, run in memory."""

from __future__ import annotations

from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from backdoor_pipeline.pipelines.poison.pipeline import create_pipeline

OUTPUTS = {"poisoned_train", "triggered_test", "poison_index", "poison_summary"}


def test_runs_on_a_catalog_in_memory(make_params, make_examples, tokenizer) -> None:
    values = {
        "examples": make_examples(),
        "base_tokenizer": tokenizer,
        "params:poison": make_params(),
        "params:model.max_length": 64,
        "params:seed": 0,
    }
    catalog = DataCatalog(
        {name: MemoryDataset(value, copy_mode="assign") for name, value in values.items()}
    )
    assert create_pipeline().inputs() == set(values)
    out = SequentialRunner().run(create_pipeline(), catalog)
    assert set(out) == OUTPUTS
    assert out["poison_summary"].load()["poisoned_rows"] == 4
    assert out["poisoned_train"].load()["is_poisoned"].sum() == 4
