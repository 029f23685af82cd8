"""What stands in MLflow after a run, however it went."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.hooks.mlflow_run import MlflowRun
from backdoor_pipeline.hooks.recorder import Recorder, numbers
from backdoor_pipeline.modelling.loading import load_classifier, new_classifier
from tiny import ROOT, project_loader


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, new_project, small_pipeline):
    """One run, recorded once for all tests that only look at it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A_SECRET", "hunter2-from-the-environment")
        project = new_project(tmp_path_factory.mktemp("project"), patch)
        project.run(small_pipeline("btu"), pipeline_names=["btu"], seed=3)
    return project


class TestFinishedRun:
    def test_is_one_finished_run(self, recorded) -> None:
        (run,) = recorded.runs
        assert run.info.status == "FINISHED"
        assert run.info.run_name == "btu rotten_tomatoes.badnets-0.10.minilm.s3"

    def test_has_the_parameters_that_were_used(self, recorded, make_parameters) -> None:
        params = recorded.runs[0].data.params
        used = make_parameters()
        assert params["training.learning_rate"] == str(used.training.learning_rate)
        assert params["poison.rate"] == str(used.poison.rate)
        assert params["poison.badnets.pick"] == used.poison.badnets.pick
        groups = {name.split(".")[0] for name in params}
        assert groups == {"training", "poison", "evaluation"}
        assert not [name for name in params if name.startswith("poison.addsent")]

    def test_has_its_metrics_without_the_recipe(self, recorded) -> None:
        metrics = recorded.runs[0].data.metrics
        assert metrics["purified.attack_success_rate"] == 0.05
        assert metrics["valid"] == 1.0
        assert "detector.precision" not in metrics  # undefined

    def test_has_curves_with_steps(self, recorded) -> None:
        points = recorded.client.get_metric_history(recorded.runs[0].info.run_id, "victim.loss")
        assert [(p.step, p.value) for p in points] == [(1, 0.9), (2, 0.5), (3, 0.4)]

    def test_has_the_cost_of_each_node(self, recorded) -> None:
        metrics = recorded.runs[0].data.metrics
        for node in ("train_victim", "evaluate_models", "build_report"):
            assert metrics[f"cost.{node}.wall_seconds"] > 0
            assert metrics[f"cost.{node}.peak_memory_bytes"] > 1e6

    def test_has_report_and_figures_that_open_offline(self, recorded) -> None:
        files = recorded.artifacts(recorded.runs[0])
        assert set(files) == {"report.html", "figures.html"}
        assert files["report.html"].read_text() == "<p>report</p>"
        figures = files["figures.html"].read_text()
        assert figures.count("Plotly.newPlot(") >= 2
        assert "<script src=" not in figures

    def test_says_where_it_comes_from(self, recorded) -> None:
        tags = recorded.runs[0].data.tags
        assert tags["recipe"] == "btu"
        assert tags["dataset"] == "rotten_tomatoes"
        assert tags["attack"] == "badnets"
        assert tags["seed"] == "3"
        assert tags["validity"] == "attack implanted"
        assert tags["nodes_run"] == "3 of 3"
        assert "kedro run --pipelines btu --params" in tags["command"]
        assert "btu-" in tags["outputs"]
        assert {"data_digest", "version", "env", "host"} <= tags.keys()
        assert "5.0 %" in tags["mlflow.note.content"]  # the closing table

    def test_names_the_data_and_their_digest(self, recorded) -> None:
        run = recorded.runs[0]
        (data,) = run.inputs.dataset_inputs
        assert data.dataset.name == "rotten_tomatoes"
        assert run.data.tags["data_digest"].startswith(data.dataset.digest)

    def test_tells_nothing_of_the_environment(self, recorded) -> None:
        contents = (recorded.folder / "mlflow.db").read_bytes()
        assert b"hunter2" not in contents

    def test_artifacts_lie_beside_the_store(self, recorded) -> None:
        (report,) = recorded.folder.glob("mlruns/*/artifacts/report.html")
        assert report.is_file()


def fail(history, rows):
    raise InputError("row 7 of reviews.csv is empty")


def interrupt(history, rows):
    raise KeyboardInterrupt


class TestOtherRuns:
    def test_several_recipes_lead_their_names(self, project, small_pipeline) -> None:
        project.run(small_pipeline("btu", "association"))
        (run,) = project.runs
        assert run.data.metrics["btu.purified.clean_accuracy"] == 0.9
        assert run.data.metrics["association.purified.clean_accuracy"] == 0.9
        assert "victim.loss" in run.data.metrics
        assert "cost.btu.evaluate_models.wall_seconds" in run.data.metrics
        assert set(project.artifacts(run)) == {"association/", "btu/"}
        assert set(project.artifacts(run, "btu")) == {"btu/report.html", "btu/figures.html"}
        assert run.data.tags["recipe"] == "association,btu"

    def test_skipped_nodes_are_recorded_all_the_same(self, project, small_pipeline) -> None:
        for _ in range(2):
            project.run(small_pipeline("btu"), only_missing_outputs=True)
        first, second = project.runs
        assert second.info.status == "FINISHED"
        assert second.data.tags["nodes_run"] == "0 of 3"
        assert second.data.metrics == first.data.metrics
        assert second.data.params == first.data.params
        assert set(project.artifacts(second)) == set(project.artifacts(first))

    def test_a_stage_of_its_own(self, project, small_pipeline) -> None:
        train = small_pipeline("btu").only_nodes("train_victim")
        project.run(train, pipeline_names=["train"])
        (run,) = project.runs
        assert run.info.run_name == "train rotten_tomatoes.badnets-0.10.minilm.s0"
        assert run.data.tags["recipe"] == "none"
        assert "victim.loss" in run.data.metrics

    def test_a_failed_run_says_why(self, project, small_pipeline) -> None:
        with pytest.raises(InputError):
            project.run(small_pipeline("btu", evaluate=fail))
        (run,) = project.runs
        assert run.info.status == "FAILED"
        assert run.data.tags["error"] == "InputError: row 7 of reviews.csv is empty"
        assert "victim.loss" in run.data.metrics  # what came before it is there

    def test_an_interrupted_run_is_closed_when_the_process_ends(
        self, project, small_pipeline
    ) -> None:
        with pytest.raises(KeyboardInterrupt):
            project.run(small_pipeline("btu", evaluate=interrupt))
        assert project.runs[0].info.status == "RUNNING"
        project.hooks._close_interrupted()  # registered with atexit
        (run,) = project.runs
        assert run.info.status == "KILLED"
        assert run.data.tags["error"] == "interrupted"

    def test_a_killed_run_is_closed_by_the_next_one(self, project, small_pipeline) -> None:
        with pytest.raises(KeyboardInterrupt):
            project.run(small_pipeline("btu", evaluate=interrupt))
        with pytest.raises(KeyboardInterrupt):
            project.hooks._recorder = None  # this process knows nothing of the first run
            project.run(small_pipeline("btu", evaluate=interrupt), seed=1)
        project.hooks._recorder = None
        project.run(small_pipeline("btu"))
        status = {run.data.tags["seed"]: [] for run in project.runs}
        for run in project.runs:
            status[run.data.tags["seed"]].append(run.info.status)
        assert status["0"] == ["KILLED", "FINISHED"]
        assert status["1"] == ["RUNNING"]  # other settings: somebody may be at it

    def test_two_runs_of_one_process_do_not_mix(self, project, small_pipeline) -> None:
        project.run(small_pipeline("btu"), **{"training": {"epochs": 1}})
        project.run(small_pipeline("btu"), **{"training": {"epochs": 2}})
        assert [run.data.params["training.epochs"] for run in project.runs] == ["1", "2"]


class TestGivenIds:
    def test_a_run_made_by_a_driver_is_used(self, project, small_pipeline) -> None:
        place = str(project.folder / "mlruns")
        experiment = project.client.create_experiment("backdoor_pipeline", place)
        made = project.client.create_run(experiment, run_name="cell 7").info.run_id
        project.client.set_terminated(made, "FAILED")  # of an earlier attempt
        project.run(small_pipeline("btu"), tracking={"run_id": made})
        (run,) = project.runs
        assert (run.info.run_id, run.info.run_name) == (made, "cell 7")
        assert run.info.status == "FINISHED"
        assert run.data.metrics["purified.clean_accuracy"] == 0.9

    def test_a_run_with_other_parameters_is_left_alone(self, project, small_pipeline) -> None:
        project.run(small_pipeline("btu"))
        (run,) = project.runs
        changes = {"tracking": {"run_id": run.info.run_id}, "training": {"epochs": 9}}
        with pytest.raises(InputError, match=r"Changing param values is not allowed"):
            project.run(small_pipeline("btu"), **changes)
        assert project.runs[0].info.status == "FINISHED"

    def test_name_and_parent(self, project, small_pipeline) -> None:
        tracking = {"run_name": "my run", "parent_run_id": "abc"}
        project.run(small_pipeline("btu"), tracking=tracking)
        (run,) = project.runs
        assert run.info.run_name == "my run"
        assert run.data.tags["mlflow.parentRunId"] == "abc"

    def test_an_unknown_run(self, project, small_pipeline) -> None:
        with pytest.raises(InputError, match=r"tracking\.run_id is '0123', but"):
            project.run(small_pipeline("btu"), tracking={"run_id": "0123"})


class TestSwitchedOff:
    def test_nothing_is_recorded(self, project, small_pipeline, monkeypatch) -> None:
        monkeypatch.setenv("BACKDOOR_TRACKING", "false")
        project.run(small_pipeline("btu"))
        assert project.runs == []

    def test_mlflow_is_not_imported(self, tmp_path) -> None:
        code = f"""
import os, sys
os.environ.update(BACKDOOR_TRACKING="false")
sys.path[:0] = [{str(ROOT / "src")!r}, {str(ROOT / "tests")!r}]
from types import SimpleNamespace
from kedro.pipeline import Node, Pipeline
from tiny import project_loader
from backdoor_pipeline.hooks.tracking import TrackingHooks
hooks, pipeline = TrackingHooks(), Pipeline([Node(lambda: 1, None, "x")])
hooks.after_context_created(SimpleNamespace(config_loader=project_loader(), project_path="."))
hooks.before_pipeline_run({{}}, pipeline, None)
hooks.after_dataset_saved("x")
hooks.after_pipeline_run(pipeline)
assert "mlflow" not in sys.modules
"""
        subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=120)


def test_a_store_that_breaks_down_costs_the_record_alone(
    project, small_pipeline, monkeypatch, caplog
) -> None:
    def refuse(*arguments):
        raise ConnectionError("https://me:hunter2@tracking went away")

    monkeypatch.setattr(MlflowRun, "log_metrics", refuse)
    with caplog.at_level(logging.WARNING):
        project.run(small_pipeline("btu"))
    assert "went away" in caplog.text
    assert "hunter2" not in caplog.text
    assert list((project.folder / "data").rglob("report.html"))
    (run,) = project.runs
    assert run.info.status == "FAILED"
    assert run.data.tags["error"].startswith("the record is incomplete: ")


def test_registers_the_purified_model_when_asked(project, base_model, tmp_path) -> None:
    from mlflow.artifacts import download_artifacts

    classifier = new_classifier(base_model(), 2, 0)
    pipeline = Pipeline(
        [Node(lambda params: classifier, "params:fine_tune", "purified_model", name="tune")],
        namespace="btu",
        parameters={"params:fine_tune"},
    )
    project.run(pipeline)
    assert project.client.search_registered_models() == []
    assert project.artifacts(project.runs[0]) == {}
    for version in (1, 2):
        project.run(pipeline, only_missing_outputs=True, tracking={"register_model": True})
        champion = project.client.get_model_version_by_alias("purified", "champion")
        assert int(champion.version) == version
        assert champion.run_id == project.runs[-1].info.run_id
        assert champion.tags["recipe"] == "btu"
    folder = download_artifacts(
        "models:/purified@champion", tracking_uri=project.uri, dst_path=str(tmp_path / "got")
    )
    assert load_classifier(Path(folder)).model.config.num_labels == 2


def test_every_kind_in_the_catalog_is_known() -> None:
    asked = {
        (entry.get("metadata") or {}).get("mlflow")
        for entry in project_loader()["catalog"].values()
    }
    known = set(Recorder(None, None, [], None, {}).kinds)
    assert asked - {None} == known


def test_curves_in_a_record_are_curves() -> None:
    points = {"step": [0, 1, 2], "value": [0.9, 0.5, 0.1]}
    record = {"steps": 2, "search": {"forget_accuracy": points}, "isolated": [4, 5]}
    logged: dict[str, Any] = {}
    run = SimpleNamespace(
        log_metrics=logged.update,
        log_curve=lambda name, steps, values: logged.update({name: (steps, values)}),
    )
    data = MemoryDataset(record, metadata={"mlflow": "record"})
    catalog = DataCatalog({"potion.trigger_search_record": data})
    Recorder(run, catalog, ["potion"], None, {}).record("potion.trigger_search_record")
    assert logged == {
        "trigger_search.steps": 2.0,
        "trigger_search.search.forget_accuracy": ([0, 1, 2], [0.9, 0.5, 0.1]),
    }


def test_only_numbers_are_metrics() -> None:
    values = {"steps": 3, "share": 0.5, "valid": True, "never": None, "word": "yes"}
    assert numbers(values) == {"steps": 3.0, "share": 0.5, "valid": 1.0}
