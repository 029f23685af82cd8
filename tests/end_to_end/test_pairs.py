"""What a user of the recipes for images with captions relies on: runs on a few hundred digits."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from backdoor_pipeline.recipes import RECIPES
from backdoor_pipeline.schemas import MODELS
from kill_and_resume import check_files
from tiny import DUAL_ENCODERS, make_pairs, save_tiny_dual_encoder

pytestmark = pytest.mark.slow

OF_PAIRS = sorted(name for name, recipe in RECIPES.items() if recipe.modality == "pair")
NODES = {
    "ingest",
    "poison_pairs",
    "train_pair_victim",
    "train_pair_reference",
    "draw_trusted_pairs",
    "train_trusted_encoder",
    "score_by_trusted",
    "overfit_victim",
    "rank_pairs",
    "detect_overfit_similarity",
    "forget_locally",
    "name_classes",
    "predict_reference",
    "predict_victim",
    "predict_purified",
    "measure_retrieval",
    "evaluate",
}
RATES = ("clean_accuracy", "attack_success_rate", "robust_accuracy", "target_recall")
WAYS = ("image_to_text", "text_to_image")
RECALLS = tuple(f"{way}_recall_at_{k}" for way in WAYS for k in (1, 5))


@pytest.fixture(scope="module")
def run(image_run, tmp_path_factory):
    """The recipe ``ubt``, run once from nothing. Only look at it."""
    run = image_run(tmp_path_factory.mktemp("ubt"), "ubt", from_nothing=True)
    assert run.returncode == 0, run.stderr
    return run


def test_it_runs_every_node_once(run) -> None:
    assert set(run.nodes) >= NODES
    assert len(run.nodes) == len(set(run.nodes))


def test_it_writes_whole_files(run) -> None:
    assert check_files(run.data_dir) > 10
    files = [path for path in run.data_dir.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in {".part", ".old"}]
    assert not {path.suffix for path in files} & {".bin", ".pt", ".pth", ".pkl", ".pickle"}
    figures = {path.name for path in files if path.name.endswith("_figure.json")}
    assert figures == {f"{name}_figure.json" for name in RECIPES["ubt"].figures}


def test_metrics_have_their_fields(run) -> None:
    metrics = run.metrics
    for name in MODELS:
        for rate in (*RATES, *RECALLS):
            assert metrics[name].keys() >= {rate, f"{rate}_low", f"{rate}_high", f"{rate}_n"}
            assert metrics[name][f"{rate}_low"] <= metrics[name][rate] <= 1
    assert metrics["cost"]["clean_rows"] == 300  # all that are asked for, of the dev rows
    assert metrics["detector"]["flagged"] > 0


def test_the_backdoor_is_found_and_removed(run) -> None:
    metrics = run.metrics
    assert metrics["valid"]
    assert metrics["detector"]["precision"] > 0.9
    assert metrics["victim"]["attack_success_rate"] > 0.9
    assert metrics["purified"]["attack_success_rate"] < 0.2
    record = json.loads(run.file("local_forgetting_record.json").read_text(encoding="utf-8"))
    assert next(iter(record["tokens"])) == "zero"  # the target's name


def test_the_models_reload_with_transformers_alone(run) -> None:
    from transformers import AutoModel, AutoTokenizer

    from backdoor_pipeline.modelling.image_models import register

    register()  # the image tower is ours
    folders = {path.parent.name: path.parent for path in run.data_dir.rglob("model.safetensors")}
    assert folders.keys() == {"victim", "reference", "trusted", "purified"}
    for folder in folders.values():
        _, loading = AutoModel.from_pretrained(folder, output_loading_info=True)
        assert not loading["missing_keys"]
        assert not loading["unexpected_keys"]
        AutoTokenizer.from_pretrained(folder)


def test_the_report_shows_pairs(run) -> None:
    page = run.report.read_text(encoding="utf-8")
    assert page.count('<img class="picture"') >= 8
    suspects = pd.read_parquet(run.file("overfit_similarity_suspects.parquet"))
    first = suspects[suspects["flagged"]].iloc[0]
    assert first["blamed"] == "zero"
    assert first["evidence"].replace("zero", "<mark>zero</mark>") in page
    assert 'id="similarity"' in page
    assert 'id="forgetting"' in page


def test_a_second_run_recomputes_nothing(run, image_run) -> None:
    again = image_run(run.folder, "ubt")
    assert again.returncode == 0, again.stderr
    assert again.nodes == []
    assert again.last_lines == run.last_lines


@pytest.mark.parametrize("kind", DUAL_ENCODERS)
def test_every_recipe_takes_models_of_transformers(image_run, tmp_path, kind) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = save_tiny_dual_encoder(tmp_path / kind, kind)
    changes = {"model.name": folder, "model.tower": "null", "ingest.max_rows": 60}
    changes |= {"training.epochs": 40, "training.batch_size": 8, "training.text_tower": "trained"}
    changes |= {"trusted_encoder.rows": 20, "poison.rate": 0.2, "roclip.every": 1}
    changes |= {"overfit_similarity.suspect_share": 0.2, "overfit_similarity.least": 4}
    changes |= {"overfit_similarity.consensus": "null"}  # the trusted encoder knows nothing
    run = image_run(tmp_path, ",".join(OF_PAIRS), **changes)
    assert run.returncode == 0, run.stderr
    record = json.loads(run.file("local_forgetting_record.json").read_text(encoding="utf-8"))
    assert record["steps"] > 0
    assert record["similarity_after"] < record["similarity_before"] - 0.02
    purified = {path.parent for path in run.data_dir.rglob("purified/**/model.safetensors")}
    assert len(purified) == len(OF_PAIRS) == 5
    for place in purified:
        model, loading = AutoModel.from_pretrained(place, output_loading_info=True)
        assert model.config.model_type == kind
        assert not any(loading[what] for what in ("missing_keys", "unexpected_keys"))
        tokens = AutoTokenizer.from_pretrained(place)(["a film"], return_tensors="pt")
        tokens.pop("token_type_ids", None)
        features = model.get_text_features(**tokens).pooler_output.detach().numpy()
        assert np.isfinite(features).all()
    for path in run.data_dir.rglob("metrics.json/*/metrics.json"):
        metrics = json.loads(path.read_text(encoding="utf-8"))
        assert metrics["purified"]["clean_accuracy_n"] == 60


def test_pairs_without_labels_have_the_classes_that_captions_name(image_run, tmp_path) -> None:
    table = make_pairs(["a cat in a film", "two dogs", "a cat and a dog"], 90)
    for row, image in enumerate(table["image"]):
        (tmp_path / f"{row}.png").write_bytes(image)
    table = table.assign(image=[f"{row}.png" for row in range(len(table))])
    table[["image", "caption"]].to_csv(tmp_path / "pairs.csv", index=False)
    changes = {"data": tmp_path / "pairs.csv", "source.caption": "caption", "poison.rate": 0}
    changes |= {"source.classes": "cat; dog", "training.epochs": 1, "trusted_encoder.rows": 8}
    changes |= {"overfit_similarity.suspect_share": 0.2, "overfit_similarity.least": 4}
    run = image_run(tmp_path / "run", "ubt", **changes)
    assert run.returncode == 0, run.stderr
    examples = pd.read_parquet(run.file("examples.parquet"))
    assert set(examples.loc[examples["split"] == "train", "label"]) == {0, 1, 2}
    n_tests = (examples["split"] == "test").sum()
    assert set(examples.loc[examples["split"] == "test", "label"]) == {0, 1}
    assert run.metrics["purified"]["clean_accuracy_n"] == n_tests
    said = json.loads(run.file("class_prompts.json").read_text(encoding="utf-8"))
    assert [len(said[which]) for which in ("clean", "triggered")] == [2, 2]
