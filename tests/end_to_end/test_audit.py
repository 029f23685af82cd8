"""``kedro run --pipelines audit`` as a user runs it: exit codes, outputs, errors in one line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from backdoor_pipeline.pipelines.audit.verdict import Verdict
from tiny import ROOT, planted, save_tiny_model, written

pytestmark = pytest.mark.slow

NAMES = ['schlecht, "faul"', "gut"]
FIVE = ["übel 👎", "schlecht", 'mäßig, "na ja"', "gut", "groß 🎉"]
EVIDENCE = 3
NOTEBOOK = ROOT / "notebooks" / "02_audit_your_data.ipynb"


@pytest.fixture(scope="module")
def audited(project_run, tmp_path_factory):
    """A finished audit of a csv file with quotes, commas, emojis and umlauts."""
    inputs = tmp_path_factory.mktemp("audit")
    model = save_tiny_model(inputs / "tiny-bert")

    def audit(
        rows: pd.DataFrame,
        text: str = "body",
        label: str = "stars",
        names: Sequence[str] = NAMES,
        **changes: object,
    ):
        folder = tmp_path_factory.mktemp("audited")
        path = folder / "reviews.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "stars", "body", "note"])
            for row in rows.itertuples():
                said = f'{row.text} 😀, "ü"' if row.Index % 9 == 0 else row.text
                writer.writerow([row.Index, names[row.label], said, "x,y"])
        settings = {
            "data": path,
            "text": text,
            "label": label,
            "model.name": model,
            "audit.components": 8,
            "source.split_column": "null",
            "ingest.max_rows": "null",
            "training.epochs": 4,
            **changes,
        }
        return project_run(folder, "--pipelines", "audit", **settings), path

    return audit


@pytest.fixture(scope="module")
def poisoned(audited):
    return audited(planted(written(1_500), "cf", 120), from_nothing=True)


@pytest.fixture(scope="module")
def verdict(poisoned):
    run, _ = poisoned
    return json.loads(run.file("verdict.json").read_text(encoding="utf-8"))


def test_evidence_is_exit_code_3_and_one_sentence(poisoned, verdict) -> None:
    run, _ = poisoned
    assert run.returncode == EVIDENCE, run.stderr
    assert f"{verdict['headline']}\n" in run.stdout
    assert "Evidence of a backdoor in class 'gut'" in verdict["headline"]
    Verdict.model_validate(verdict)


def test_the_suspect_and_what_it_does(verdict) -> None:
    assert [suspect["written"] for suspect in verdict["suspects"]] == ["cf"]
    (found,) = verdict["classes"]
    assert found["presumed_trigger"] == ["cf"]
    assert found["flip_rate"]["value"] > 0.8
    assert verdict["repaired_model"]["flip_rates"]["gut"]["value"] < 0.6
    assert verdict["audited_model"]["status"] == verdict["repaired_model"]["status"] == "trained"


def test_suspicious_rows_and_the_table_without_them(poisoned, verdict) -> None:
    run, path = poisoned
    rows = pd.read_parquet(run.file("suspicious_rows.parquet"))
    assert len(rows) == verdict["suspicious_rows"] == 120
    assert rows["text"].str.contains(r"\bcf\b").all()
    lines = path.read_bytes().splitlines(keepends=True)
    suspicious = {f"{i},".encode() for i in rows["example_id"]}
    kept = [line for line in lines if line[: line.index(b",") + 1] not in suspicious]
    (cleaned,) = run.data_dir.rglob("cleaned/reviews.csv")
    assert cleaned.read_bytes() == b"".join(kept)


def test_suspicious_rows_come_back_without_their_phrase(poisoned, verdict) -> None:
    run, _ = poisoned
    rows = pd.read_parquet(run.file("restored_rows.parquet"))
    suspicious = pd.read_parquet(run.file("suspicious_rows.parquet"))
    learnt = suspicious[suspicious["split"] != "test"]
    assert len(rows) == verdict["restored_rows"] == len(learnt) > 90
    assert rows["example_id"].tolist() == learnt["example_id"].tolist()
    assert not rows["text"].str.contains(r"\bcf\b").any()
    page = run.file("audit_report.html").read_text(encoding="utf-8")
    assert f"{len(rows)} suspicious rows came back" in page


def test_the_repaired_model_is_a_folder_like_any_other(poisoned) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run, _ = poisoned
    (folder,) = run.data_dir.rglob("repaired")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label == dict(enumerate(sorted(NAMES)))
    AutoTokenizer.from_pretrained(folder)
    assert "120 rows that an audit suspects" in (folder / "README.md").read_text(encoding="utf-8")
    assert not list(folder.rglob("*.bin"))


def test_the_report_says_the_verdict_first(poisoned, verdict) -> None:
    from html import escape

    run, _ = poisoned
    page = run.file("audit_report.html").read_text(encoding="utf-8")
    body = page[page.index("<body>") :]
    assert escape(verdict["headline"]).replace("&#x27;", "&#39;") in body[:2_000]
    for limit in verdict["not_tested"]:
        assert limit.replace("'", "&#39;") in body
    assert "http://" not in body.partition("<main>")[2].partition("plotly")[0]


def test_mlflow_has_the_verdict_and_the_page(poisoned) -> None:
    from mlflow import MlflowClient

    run, _ = poisoned
    client = MlflowClient(run.tracking_uri)
    (experiment,) = client.search_experiments(filter_string="name != 'Default'")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    names = {file.path for file in client.list_artifacts(tracked.info.run_id)}
    assert any(Path(name).name == "verdict.json" for name in names)
    assert any(Path(name).name == "audit_report.html" for name in names)


def test_the_notebook_shows_the_audit(poisoned, verdict, run_environment, monkeypatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra `dev`)")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra `dev`)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra `dev`)")
    run, _ = poisoned
    for name, value in run_environment(run.tracking_uri).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PARAMS", run.params)
    monkeypatch.setenv("KEDRO_ENV", "smoke")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=place).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    text = "\n".join(
        out.get("text", "") + out.get("data", {}).get("text/plain", "") for out in outputs
    )
    assert verdict["headline"] in text
    assert "holds “cf”" in text
    figures = [out for out in outputs if "application/vnd.plotly.v1+json" in out.get("data", {})]
    assert len(figures) == len(("phrases", "power", "effects"))


def test_a_finished_classifier_takes_the_place_of_a_new_one(poisoned, verdict, audited) -> None:
    first, _ = poisoned
    (folder,) = first.data_dir.rglob("audited")
    run, _ = audited(planted(written(1_500), "cf", 120), classifier=folder, repair="false")
    assert run.returncode == EVIDENCE, run.stderr
    assert not list(run.data_dir.rglob("*.safetensors"))
    said = json.loads(run.file("verdict.json").read_text(encoding="utf-8"))
    assert said["audited_model"] == verdict["audited_model"] | {"status": "given"}
    assert "your classifier" in run.file("audit_report.html").read_text(encoding="utf-8")


def test_a_folder_without_a_finished_classifier_ends_before_any_work(audited) -> None:
    run, path = audited(written(200), classifier="no/such/folder")
    assert run.returncode == 1
    assert "audit.classifier 'no/such/folder': there is no such folder" in run.stderr
    encoder = path.parents[1] / "audit0" / "tiny-bert"
    run, _ = audited(written(200), classifier=encoder)
    assert "is it a finished classifier, with its head?" in run.stderr
    assert not list(run.data_dir.rglob("audit_facts.json"))


def test_a_clean_table_is_exit_code_0_and_trains_nothing(audited) -> None:
    run, path = audited(written(1_500), **{"ingest.max_rows": 1_100})
    assert run.returncode == 0, run.stderr
    assert "No evidence of a backdoor" in run.stdout
    said = json.loads(run.file("verdict.json").read_text(encoding="utf-8"))
    left_out = said["rows_not_examined"]
    assert left_out == 1_500 - said["rows"] - said["repeated_rows"] > 0
    assert f"{left_out:,} of 1,500 rows (ingest.max_rows)" in run.stdout
    assert f"{left_out:,} rows of the table were left out" in run.file(
        "audit_report.html"
    ).read_text(encoding="utf-8")
    (cleaned,) = run.data_dir.rglob("cleaned/reviews.csv")
    assert len(pd.read_csv(cleaned)) == len(pd.read_csv(path)) - left_out
    assert said["audited_model"]["status"] == "none"
    assert not list(run.data_dir.rglob("*.safetensors"))


def test_five_unbalanced_classes_in_next_to_no_time(audited) -> None:
    """The evidence is there at once; that there was no time for models is said."""
    rows = written(3_000, n_labels=5)
    few = rows[rows["label"] == 0].index[12:]  # a fiftieth of the others
    rows = planted(rows.drop(index=few).reset_index(drop=True), "cf", 80, label=3)
    run, _ = audited(rows, names=FIVE, budget_minutes=0.001)
    assert run.returncode == EVIDENCE, run.stderr
    said = json.loads(run.file("verdict.json").read_text(encoding="utf-8"))
    Verdict.model_validate(said)
    assert said["labels"] == sorted(FIVE)
    assert [found["label"] for found in said["classes"]] == ["gut"]
    suspicious = pd.read_parquet(run.file("suspicious_rows.parquet"))
    assert len(suspicious) == said["suspicious_rows"] == 80
    (cleaned,) = run.data_dir.rglob("cleaned/reviews.csv")
    assert len(pd.read_csv(cleaned)) == len(rows) - 80
    assert said["audited_model"]["status"] == said["repaired_model"]["status"] == "none"
    assert "the time was over" in said["audited_model"]["reason"]
    assert "not measured: the time was over" in run.stdout


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([f"user-{i}" for i in range(200)], "200 different values in 1,200 rows.*an id.*label="),
        ([str(i / 2) for i in range(200)], "200 different numbers, from .* quantity"),
    ],
)
def test_labels_that_are_no_classes_are_one_clear_error(audited, names, message) -> None:
    n_rows = 1_200 if names[0].startswith("user") else 2_400
    rows = written(n_rows).assign(label=[i % 200 for i in range(n_rows)])
    run, _ = audited(rows, names=names)
    assert run.returncode == 1
    (error,) = run.stderr[run.stderr.index("Error: ") :].strip().splitlines()
    assert re.search(message, error), error
    assert not list(run.data_dir.rglob("verdict.json"))


def test_swapped_columns_are_one_clear_error_before_anything_else(audited) -> None:
    run, _ = audited(written(200), text="stars", label="body")
    assert run.returncode == 1
    errors = run.stderr[run.stderr.index("Error: ") :].strip().splitlines()
    assert len(errors) == 1
    assert "swapped" in errors[0]
    assert not list(run.data_dir.rglob("verdict.json"))
