"""What a user of the trainings that resist relies on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tiny import make_corpus

pytestmark = pytest.mark.slow

FEW = {"ingest.max_rows": 200, "defended_training.clean_rows": 16}
TRAININGS = {"train_victim", "train_reference", "train_defended"}


def record(folder: Path, name: str) -> dict[str, Any]:
    (path,) = folder.rglob(f"{name}_record.json")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Path:
    """A table of clean rows from another source; two of them stand in the data as well."""
    folder = tmp_path_factory.mktemp("elsewhere")
    known = make_corpus(n_dev=240).head(2)
    rows = make_corpus(n_train=40, n_dev=0, n_test=0, seed=5)
    pd.concat([known, rows])[["text", "label"]].to_csv(folder / "mine.csv", index=False)
    return folder / "mine.csv"


@pytest.fixture(scope="module")
def trained(project_run, tmp_path_factory, elsewhere):
    """MuScleLoRA with clean rows of a second source. Only look at it."""
    folder = tmp_path_factory.mktemp("musclelora")
    run = project_run(folder, "--pipelines", "musclelora", **FEW | {"clean_source.data": elsewhere})
    assert run.returncode == 0, run.stderr
    return run


def test_clean_rows_of_a_second_source(trained, elsewhere) -> None:
    (path,) = trained.data_dir.rglob("clean_rows.parquet")
    rows = pd.read_parquet(path)
    assert set(rows["source"]) == {"out_of_domain"}
    assert set(rows["text"]) <= set(pd.read_csv(elsewhere)["text"])
    (examples,) = trained.data_dir.rglob("examples.parquet")
    assert not set(rows["text"]) & set(pd.read_parquet(examples)["text"])
    used = record(trained.data_dir, "clean_rows")
    assert used["dev_rows"] == 0
    assert used["out_of_domain_rows"] == 16
    assert record(trained.data_dir, "defended_training")["dev_rows"] == 0
    cost = trained.metrics["cost"]
    assert (cost["clean_rows"], cost["out_of_domain_rows"]) == (16, 16)
    assert "of which out of domain: 16" in trained.report.read_text(encoding="utf-8")


def test_the_checks_come_before_all_trainings(trained) -> None:
    order = trained.nodes
    first = min(map(order.index, TRAININGS))
    assert {"draw_clean_rows", "plan_defended_training"} <= set(order[:first])


def test_dev_rows_instead_retrain_no_victim(trained, project_run) -> None:
    again = project_run(trained.folder, "--pipelines", "musclelora", **FEW)
    assert again.returncode == 0, again.stderr
    assert TRAININGS & set(again.nodes) == {"train_defended"}
    cost = again.metrics["cost"]
    assert (cost["clean_rows"], cost["out_of_domain_rows"]) == (16, 0)


def test_a_recipe_without_clean_rows_reads_none(trained, project_run) -> None:
    run = project_run(
        trained.folder, "--pipelines", "abl", **FEW | {"clean_source.data": "/not/there.csv"}
    )
    assert run.returncode == 0, run.stderr
    assert TRAININGS & set(run.nodes) == {"train_defended"}
    done = next(trained.data_dir.glob("06_models/*.abl.*/defended_training_record.json"))
    isolated = json.loads(done.read_text())["isolated"]
    assert run.metrics["isolation"]["rows"] == len(isolated) == 2
    assert run.metrics["cost"]["clean_rows"] == 0
    assert "unrecorded" not in run.stderr  # MLflow takes no lists


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"defended_training.clean_rows": 900}, "clean_rows is 900, but the dev split has"),
        ({"radial_scaling.layer": "pool"}, "has no dense layer 'pool'"),
        ({"low_rank.targets": "[q_proj]"}, "has no dense layer 'q_proj'"),
        ({"low_rank.rank": 0}, "parameter low_rank.rank is 0"),
        ({"clean_source.data": "/not/there.csv"}, "/not/there.csv"),
    ],
    ids=str,
)
def test_a_bad_setting_is_one_error_before_any_training(
    project_run, tmp_path, change, said
) -> None:
    run = project_run(tmp_path, "--pipelines", "musclelora", **FEW | change)
    assert run.returncode == 1
    assert not TRAININGS & set(run.nodes)
    errors = [line for line in run.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert said in run.stderr
    assert "Traceback" not in run.stderr + run.stdout
