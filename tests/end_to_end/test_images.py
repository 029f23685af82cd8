"""What a user of the recipes for images relies on: one run on a few hundred packaged digits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from backdoor_pipeline.recipes import RECIPES
from backdoor_pipeline.schemas import MODELS
from kill_and_resume import check_files

pytestmark = pytest.mark.slow

NODES = {
    "ingest",
    "poison_images",
    "train_image_victim",
    "train_image_reference",
    "tell_discovered_share",
    "search_trigger",
    "predict_reference",
    "predict_victim",
    "predict_purified",
    "evaluate",
}
RATES = ("clean_accuracy", "attack_success_rate", "robust_accuracy")


@pytest.fixture(scope="module")
def run(image_run, tmp_path_factory):
    """The recipe ``potion``, run once from nothing. Only look at it."""
    run = image_run(tmp_path_factory.mktemp("potion"), from_nothing=True)
    assert run.returncode == 0, run.stderr
    return run


def test_it_runs_every_node_once(run) -> None:
    assert set(run.nodes) >= NODES
    assert len(run.nodes) == len(set(run.nodes))


def test_it_writes_whole_files_by_layer(run) -> None:
    layers = {path.name for path in run.data_dir.iterdir()} - {".locks", ".costs"}
    assert layers == {
        *("03_primary", "05_model_input", "06_models", "07_model_output", "08_reporting"),
    }
    assert check_files(run.data_dir) > 10
    names = [path.name for path in run.data_dir.rglob("*")]
    assert not [name for name in names if name.endswith((".part", ".old"))]
    figures = {name for name in names if name.endswith("_figure.json")}
    assert figures == {f"{name}_figure.json" for name in RECIPES["potion"].figures}
    assert figures.isdisjoint({"drift_figure.json", "association_figure.json"})
    suffixes = {path.suffix for path in run.data_dir.rglob("*") if path.is_file()}
    assert not suffixes & {".bin", ".pt", ".pth", ".pkl", ".pickle"}


def test_a_share_of_the_poison_is_told(run) -> None:
    index = set(pd.read_parquet(run.file("poison_index.parquet"))["example_id"])
    suspects = pd.read_parquet(run.file("discovered_share_suspects.parquet"))
    train = pd.read_parquet(run.file("poisoned_train.parquet"))
    assert len(index) == int(0.1 * len(train)) == train["is_poisoned"].sum()
    assert set(suspects["key"]) < index
    assert len(suspects) == round(len(index) / 2)


def test_metrics_have_their_fields(run) -> None:
    metrics = run.metrics
    for name in MODELS:
        for rate in RATES:
            assert metrics[name].keys() >= {rate, f"{rate}_low", f"{rate}_high", f"{rate}_n"}
            assert metrics[name][f"{rate}_low"] <= metrics[name][rate] <= 1
        assert metrics[name].keys() >= {"attack_success_floor", "attack_success_excess"}
    detector = metrics["detector"]
    assert (detector["precision"], detector["false_alarms"]) == (1.0, 0)
    assert 0 < detector["recall"] < 1
    assert metrics["cost"]["clean_rows"] == 0
    assert metrics["cost"]["wall_seconds"] > 0
    assert metrics["cost"]["peak_memory_bytes"] > 0


def test_the_backdoor_is_removed(run) -> None:
    metrics = run.metrics
    assert metrics["valid"]
    assert metrics["victim"]["attack_success_rate"] > 0.9
    assert metrics["purified"]["attack_success_rate"] < 0.3
    assert metrics["victim"]["clean_accuracy"] - metrics["purified"]["clean_accuracy"] < 0.15
    record = json.loads(run.file("trigger_search_record.json").read_text(encoding="utf-8"))
    assert record["step"] > 0
    assert record["dev_rows"] == 0


def test_the_purified_model_can_be_loaded(run) -> None:
    import numpy as np
    import torch
    from transformers import AutoModelForImageClassification

    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.image_models import load_image_classifier
    from backdoor_pipeline.modelling.inputs import read_by
    from backdoor_pipeline.modelling.prediction import predict

    folders = {path.parent.name: path.parent for path in run.data_dir.rglob("model.safetensors")}
    assert folders.keys() == {"victim", "reference", "purified"}
    bundle = load_image_classifier(folders["purified"])
    examples = pd.read_parquet(run.file("examples.parquet"))
    test = examples[examples["split"] == "test"]
    cpu = ComputeParams(device="cpu", precision="fp32")
    guess = predict(bundle, read_by(bundle, test, 0), cpu).argmax(axis=1)
    tables = [pd.read_parquet(path) for path in run.data_dir.rglob("predictions.parquet")]
    whole = max(tables, key=len).query("model == 'purified' and test_set == 'clean'")
    np.testing.assert_array_equal(guess, whole["predicted"])
    again = AutoModelForImageClassification.from_pretrained(folders["purified"])
    weights = zip(again.parameters(), bundle.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)
    provenance = json.loads((folders["purified"] / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["recipe"] == "potion"
    assert provenance["training"]["optimiser"] == "sgd"
    assert (folders["purified"] / "README.md").is_file()


def test_the_report_shows_pictures(run) -> None:
    page = run.report.read_text(encoding="utf-8")
    for name in ("suspects", "trigger"):
        part = re.search(rf'<section id="{name}">.*?</section>', page, re.DOTALL)[0]
        assert part.count('<img class="picture"') >= 8
    assert set(re.findall(r'<img [^>]*src="(.{22})', page)) == {"data:image/png;base64,"}
    assert "patch 3x3 white bottom-right" in page
    assert len(page.encode()) < 6e6


def test_a_second_run_recomputes_nothing(run, image_run) -> None:
    def snapshot() -> dict[Path, int]:
        outputs = (path for path in run.data_dir.rglob("*") if path.is_file())
        kept = (path for path in outputs if not {".locks", ".costs"} & set(path.parts))
        return {path: path.stat().st_mtime_ns for path in kept}

    before = snapshot()
    again = image_run(run.folder)
    assert again.returncode == 0, again.stderr
    assert again.nodes == []
    assert again.last_lines == run.last_lines
    assert snapshot() == before
