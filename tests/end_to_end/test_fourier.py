"""The Fourier analysis as a user starts it, and where its results are afterwards."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow


def test_page_figures_and_summary_are_in_files_and_in_mlflow(project_run, tmp_path) -> None:
    from mlflow import MlflowClient

    changes = {"ingest.max_rows": 240, "observation.rows": 40, "fourier.widths": 3}
    run = project_run(tmp_path, "--pipelines", "fourier", **changes)
    assert run.returncode == 0, run.stderr
    (line,) = run.stdout.strip().splitlines()[-1:]
    (page,) = run.data_dir.rglob("frequency_report.html")
    assert line == f"report: {page}"
    summary = json.loads((page.parent / "frequency_summary.json").read_text())
    assert set(summary) == {"clean", "triggered", "clean_target"}

    client = MlflowClient(run.tracking_uri)
    experiment = client.get_experiment_by_name("backdoor_pipeline").experiment_id
    (tracked,) = client.search_runs([experiment])
    low = summary["triggered"]["low"]
    for name in ("initial", "final"):
        value = tracked.data.metrics[f"frequency_summary.triggered.low.{name}"]
        assert value == pytest.approx(low[name])
    files = {item.path for item in client.list_artifacts(tracked.info.run_id)}
    assert files >= {"frequency_report.html", "figures.html", "frequencies.parquet"}
