"""The last lines of a run."""

from __future__ import annotations

import pytest
from kedro.io import DataCatalog
from kedro.io.core import Version
from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.datasets.whole import JSONDataset, TextDataset
from backdoor_pipeline.hooks.closing import ClosingHooks

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


def test_ends_with_the_places_of_report_and_metrics(catalog, tmp_path, capsys) -> None:
    ClosingHooks().after_pipeline_run(making("btu.report", "btu.metrics"), catalog)
    lines = capsys.readouterr().out.splitlines()
    version = "2026-01-01T00.00.00.000Z"
    assert lines[-2:] == [
        f"report: {tmp_path}/btu/report.html/{version}/report.html",
        f"metrics: {tmp_path}/btu/metrics.json/{version}/metrics.json",
    ]
    assert any("victim" in line for line in lines)


def test_every_recipe_has_its_lines(catalog, capsys) -> None:
    ClosingHooks().after_pipeline_run(making("btu.report", "association.report"), catalog)
    assert capsys.readouterr().out.count("metrics: ") == 2


def test_an_analysis_ends_with_the_place_of_its_page(catalog, tmp_path, capsys) -> None:
    catalog["frequency_report"] = TextDataset(filepath=str(tmp_path / "page.html"))
    ClosingHooks().after_pipeline_run(making("frequencies", "frequency_report"), catalog)
    assert capsys.readouterr().out == f"report: {tmp_path}/page.html\n"


def test_a_run_without_a_report_says_nothing(catalog, capsys) -> None:
    ClosingHooks().after_pipeline_run(making("btu.metrics", "examples"), catalog)
    assert capsys.readouterr().out == ""
