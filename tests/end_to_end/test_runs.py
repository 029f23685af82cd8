"""What a user of ``kedro run`` relies on."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock

from backdoor_pipeline.formatting import flat
from backdoor_pipeline.recipes import CALIBRATED
from kill_and_resume import check_files, without_cost

pytestmark = pytest.mark.slow

ALL_NODES = {
    "ingest",
    "poison_train",
    "train_victim",
    "train_reference",
    "detect_token_drift",
    "detect_token_association",
    "confirm_suspects",
    "replace_tokens",
    "neutralise",
    "recalibrate",
    "fine_tune_lightly",
    "predict_reference",
    "predict_victim",
    "predict_purified",
    "evaluate",
}


def snapshot(folder: Path) -> dict[Path, int]:
    """Every output with the time of its last change (locks and costs are no outputs)."""
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and not {".locks", ".costs"} & set(path.parts)
    }


class TestFirstRun:
    def test_removes_the_backdoor(self, finished_run) -> None:
        metrics = finished_run.metrics
        assert metrics["valid"]
        assert metrics["victim"]["attack_success_rate"] > 0.9
        assert metrics["purified"]["attack_success_rate"] < 0.3
        assert metrics["victim"]["clean_accuracy"] - metrics["purified"]["clean_accuracy"] < 0.05
        assert metrics["detector"]["trigger_rank"] == 1
        assert 200 <= metrics["cost"]["clean_rows"] <= 240  # dev rows, for the recalibration
        assert metrics["cost"]["wall_seconds"] > 0

    def test_every_unlearner_says_what_it_did(self, finished_run) -> None:
        from mlflow import MlflowClient

        records = {
            path.stem.removesuffix("_record"): json.loads(path.read_text())
            for path in finished_run.data_dir.glob("06_models/*.purified-*/*_record.json")
        }
        assert records.keys() == set(CALIBRATED)
        assert records["token_replacement"]["tokens"] == finished_run.metrics["detector"]["flagged"]
        assert records["recalibration"]["dev_rows"] == finished_run.metrics["cost"]["clean_rows"]
        assert records["recalibration"]["dev_rows"] > 0
        client = MlflowClient(finished_run.tracking_uri)
        experiment = client.get_experiment_by_name("backdoor_pipeline").experiment_id
        *_, run = client.search_runs([experiment], order_by=["attributes.start_time DESC"])
        for name, record in records.items():
            for key, value in flat(record, f"{name}.").items():
                assert run.data.metrics[key] == pytest.approx(value)

    def test_runs_every_node_once(self, finished_run) -> None:
        assert set(finished_run.nodes) >= ALL_NODES
        assert len(finished_run.nodes) == len(set(finished_run.nodes))

    def test_ends_with_the_places_of_report_and_metrics(self, finished_run) -> None:
        report, metrics = finished_run.last_lines
        assert report.startswith("report: ")
        assert metrics.startswith("metrics: ")
        assert finished_run.report.is_file()
        assert finished_run.report.is_relative_to(finished_run.data_dir)

    def test_writes_into_its_folder_by_layer(self, finished_run) -> None:
        layers = {path.name for path in finished_run.data_dir.iterdir()}
        assert layers - {".locks", ".costs"} == {
            "03_primary",
            "05_model_input",
            "06_models",
            "07_model_output",
            "08_reporting",
        }

    def test_leaves_nothing_half_written(self, finished_run) -> None:
        names = [path.name for path in finished_run.data_dir.rglob("*")]
        assert not [name for name in names if name.endswith((".part", ".old"))]

    def test_models_are_safetensors_with_their_provenance(self, finished_run) -> None:
        folders = [path.parent for path in finished_run.data_dir.rglob("model.safetensors")]
        assert {folder.name for folder in folders} == {"victim", "reference", "purified"}
        for folder in folders:
            provenance = json.loads((folder / "provenance.json").read_text())
            assert provenance["written_by"].startswith("backdoor_pipeline ")
            assert provenance["training"]["batch_size"] > 0
            assert ("poison" in provenance) == ("clean" not in str(folder))
        suffixes = {path.suffix for path in finished_run.data_dir.rglob("*") if path.is_file()}
        assert not suffixes & {".bin", ".pt", ".pth", ".pkl", ".pickle"}

    def test_every_file_can_be_read(self, finished_run) -> None:
        assert check_files(finished_run.data_dir) > 15


def test_a_second_run_recomputes_nothing(finished_run, project_run) -> None:
    before = snapshot(finished_run.data_dir)
    again = project_run(finished_run.folder)
    assert again.returncode == 0, again.stderr
    assert again.nodes == []
    assert again.last_lines == finished_run.last_lines
    assert snapshot(finished_run.data_dir) == before


def test_fresh_recomputes_to_the_same_numbers(finished_run, project_run) -> None:
    before = snapshot(finished_run.data_dir)
    victim = next(path for path in before if path.parent.name == "victim" and "06" in str(path))
    fresh = project_run(finished_run.folder, fresh="true")
    assert fresh.returncode == 0, fresh.stderr
    assert sorted(fresh.nodes) == sorted(finished_run.nodes)
    assert fresh.last_lines != finished_run.last_lines  # reports and metrics are versioned
    assert without_cost(fresh.metrics) == without_cost(finished_run.metrics)
    assert victim.stat().st_mtime_ns != before[victim]
    assert set(before) <= set(snapshot(finished_run.data_dir))


def test_another_unlearning_parameter_retrains_nothing(finished_run, project_run) -> None:
    before = snapshot(finished_run.data_dir)
    other = project_run(finished_run.folder, **{"token_replacement.replacement": "mean"})
    assert other.returncode == 0, other.stderr
    assert "replace_tokens" in other.nodes
    assert not {"ingest", "poison_train", "train_victim", "train_reference"} & set(other.nodes)
    assert not {name for name in other.nodes if name.startswith("detect_")}
    after = snapshot(finished_run.data_dir)
    assert {path: after[path] for path in before} == before
    assert other.metrics["victim"] == finished_run.metrics["victim"]


def test_another_recipe_shares_the_victim_and_another_seed_its_poison_not(
    finished_run, project_run
) -> None:
    other = project_run(finished_run.folder, "--pipelines", "btu")
    assert other.returncode == 0, other.stderr
    assert not {"ingest", "poison_train", "train_victim", "detect_token_drift"} & set(other.nodes)
    seeded = project_run(finished_run.folder, "--pipelines", "ingest,poison", seed=1)
    assert seeded.returncode == 0, seeded.stderr
    indices = [
        set(pd.read_parquet(path)["example_id"])
        for path in finished_run.data_dir.rglob("poison_index.parquet")
    ]
    assert len(indices) == 2
    assert indices[0] != indices[1]


def test_an_error_is_one_line_without_a_traceback(finished_run, project_run) -> None:
    key = finished_run.report.parents[2].name
    with FileLock(finished_run.data_dir / ".locks" / f"{key}.lock"):
        second = project_run(finished_run.folder)
    assert second.returncode == 1
    assert "Traceback" not in second.stderr + second.stdout
    errors = [line for line in second.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert "another run with the same settings is under way" in errors[0]
    assert "change a parameter such as seed" in errors[0]
