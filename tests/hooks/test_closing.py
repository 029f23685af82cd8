"""The last lines of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.io import DataCatalog
from kedro.io.core import Version
from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.datasets.whole import JSONDataset, TextDataset
from backdoor_pipeline.hooks.closing import EVIDENCE_FOUND, ClosingHooks

RATE = {"clean_accuracy": 0.9, "attack_success_rate": 0.1}


@pytest.fixture
def catalog(tmp_path) -> DataCatalog:
    """Finished outputs of two recipes."""
    datasets = {}
    for recipe in ("btu", "association"):
        settings = {"version": Version(None, "2026-01-01T00.00.00.000Z")}
        report = TextDataset(filepath=str(tmp_path / recipe / "report.html"), **settings)
        metrics = JSONDataset(filepath=str(tmp_path / recipe / "metrics.json"), **settings)
        report.save("<html>")
        metrics.save({"victim": RATE, "purified": RATE, "reference": RATE})
        datasets |= {f"{recipe}.report": report, f"{recipe}.metrics": metrics}
    return DataCatalog(datasets)


def making(*outputs: str) -> Pipeline:
    return Pipeline([Node(lambda: None, None, name, name=f"make.{name}") for name in outputs])


AUDIT_OUTPUTS = ("suspicious_rows", "cleaned_table", "repaired_model", "verdict", "audit_report")
WHOLE_AUDIT = making(*AUDIT_OUTPUTS)
AUDIT = {"pipeline_names": ["audit"]}


def test_ends_with_the_places_of_report_and_metrics(catalog, tmp_path, capsys) -> None:
    ClosingHooks().after_pipeline_run({}, making("btu.report", "btu.metrics"), catalog)
    lines = capsys.readouterr().out.splitlines()
    version = "2026-01-01T00.00.00.000Z"
    assert lines[-2:] == [
        f"report: {tmp_path}/btu/report.html/{version}/report.html",
        f"metrics: {tmp_path}/btu/metrics.json/{version}/metrics.json",
    ]
    assert any("victim" in line for line in lines)


def test_every_recipe_has_its_lines(catalog, capsys) -> None:
    ClosingHooks().after_pipeline_run({}, making("btu.report", "association.report"), catalog)
    assert capsys.readouterr().out.count("metrics: ") == 2


def test_an_analysis_ends_with_the_place_of_its_page(catalog, tmp_path, capsys) -> None:
    catalog["frequency_report"] = TextDataset(filepath=str(tmp_path / "page.html"))
    ClosingHooks().after_pipeline_run({}, making("frequencies", "frequency_report"), catalog)
    assert capsys.readouterr().out == f"report: {tmp_path}/page.html\n"


def test_a_run_without_a_report_says_nothing(catalog, capsys) -> None:
    ClosingHooks().after_pipeline_run({}, making("btu.metrics", "examples"), catalog)
    assert capsys.readouterr().out == ""


SHARE = {"value": 0.9, "low": 0.85, "high": 0.95, "n": 400}
TRAINED = {"status": "trained", "reason": "", "accuracy": SHARE, "flip_rates": {"good": SHARE}}
NONE = {"status": "none", "reason": "not asked", "accuracy": None, "flip_rates": {}}


@pytest.fixture
def audited(catalog, tmp_path):
    """The catalog of a finished audit with this verdict."""

    def with_verdict(**changes: object) -> DataCatalog:
        verdict = {
            "headline": "Evidence of a backdoor in class 'good' (p = 0.001).",
            "evidence": True,
            "classes": [
                {"label": "good", "presumed_trigger": ["cf"], "suspicion": "backdoor"},
            ],
            "suspects": [{"kind": "phrase", "label": "good", "written": "cf"}],
            "suspicious_rows": 1200,
            "data": "mine",
            "rows": 4000,
            "repeated_rows": 500,
            "rows_not_examined": 0,
            "audited_model": TRAINED,
            "repaired_model": TRAINED,
        }
        for name in ("suspicious_rows", "cleaned_table", "repaired_model", "audit_report"):
            catalog[name] = TextDataset(filepath=str(tmp_path / name))
            catalog.save(name, "made")
        catalog["verdict"] = JSONDataset(filepath=str(tmp_path / "verdict.json"))
        catalog.save("verdict", verdict | changes)
        return catalog

    return with_verdict


def test_an_audit_says_its_verdict_what_it_rests_on_and_where_all_is(audited, capsys) -> None:
    hooks = ClosingHooks()
    hooks.after_pipeline_run(AUDIT, WHOLE_AUDIT, audited())
    assert hooks.exit_code == EVIDENCE_FOUND == 3
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "Evidence of a backdoor in class 'good' (p = 0.001)."
    assert lines[1].split() == "audited table mine, 4,000 distinct texts".split()
    assert "“cf” → good" in lines[2]
    assert "90.0 % [85.0, 95.0] of other texts flip" in lines[3]
    assert [line.partition(":")[0] for line in lines if ": /" in line] == [
        *("suspicious rows", "cleaned table", "repaired model", "verdict", "report")
    ]


def test_an_audit_without_evidence_is_exit_code_0(audited, capsys) -> None:
    hooks = ClosingHooks()
    hooks.exit_code = EVIDENCE_FOUND  # of the run before
    hooks.before_pipeline_run()
    nothing = {"evidence": False, "headline": "No evidence.", "classes": [], "suspects": []}
    changes = nothing | {"audited_model": NONE, "repaired_model": NONE}
    hooks.after_pipeline_run(AUDIT, WHOLE_AUDIT, audited(**changes))
    assert hooks.exit_code == 0
    out = capsys.readouterr().out
    assert out.strip().startswith("No evidence.\n")
    assert "repaired model" not in out


def test_false_labels_have_no_trigger(audited, capsys) -> None:
    changes = {
        "classes": [{"label": "good", "presumed_trigger": [], "suspicion": "false labels"}],
        "suspects": [{"kind": "labels", "label": "good", "written": "labels", "hits": 1_200}],
        "repaired_model": NONE,
    }
    ClosingHooks().after_pipeline_run(AUDIT, WHOLE_AUDIT, audited(**changes))
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[2].split() == "false labels 1,200 texts of good, by the clean rows".split()
    assert lines[3].split()[:3] == ["audited", "model", "accuracy"]
    assert lines[4].endswith("not measured: not asked")
    assert not any("trigger" in line or "flip" in line for line in lines)


def test_a_part_of_an_audit_has_no_verdict(audited, capsys) -> None:
    """Though there may be one of an earlier run, in files that this run does not make."""
    hooks = ClosingHooks()
    part = making("examples", "suspicious_rows", "cleaned_table")
    catalog = audited()
    Path(catalog.get("cleaned_table")._filepath).unlink()
    hooks.after_pipeline_run(AUDIT, part, catalog)
    assert hooks.exit_code == 0
    said, *paths = capsys.readouterr().out.strip().splitlines()
    assert said.startswith("No verdict")
    assert [line.partition(":")[0] for line in paths] == ["suspicious rows"]


def test_an_audit_up_to_its_verdict_names_no_page(audited, capsys) -> None:
    part = making("verdict", "suspicious_rows")
    ClosingHooks().after_pipeline_run(AUDIT, part, audited())
    out = capsys.readouterr().out
    assert out.startswith("\nEvidence of a backdoor")
    assert "report: " not in out and "verdict: " in out


def test_an_audit_of_a_sample_says_so(audited, capsys) -> None:
    ClosingHooks().after_pipeline_run(AUDIT, WHOLE_AUDIT, audited(rows_not_examined=5500))
    assert "5,500 of 10,000 rows (ingest.max_rows)" in capsys.readouterr().out


def test_what_was_not_measured_or_ended_early_says_so(audited, capsys) -> None:
    stopped = TRAINED | {"status": "stopped"}
    catalog = audited(audited_model=stopped, repaired_model=NONE)
    ClosingHooks().after_pipeline_run(AUDIT, WHOLE_AUDIT, catalog)
    out = capsys.readouterr().out
    assert "(stopped early)" in out
    assert "not measured: not asked" in out
