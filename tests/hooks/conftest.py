"""Small pipelines that go through Kedro's hooks, each recorded in an MLflow store of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner

from backdoor_pipeline.hooks.costs import CostHooks
from backdoor_pipeline.hooks.tracking import TrackingHooks
from tiny import project_loader

RATES = {"clean_accuracy": 0.9, "attack_success_rate": 0.8}
METRICS = {
    "victim": RATES,
    "purified": RATES | {"attack_success_rate": 0.05},
    "detector": {"precision": None, "flagged": 2},
    "valid": True,
    "validity": "attack implanted",
}


@dataclass
class Project:
    """A project folder with a tracking store.

    Attributes:
        folder: Holds ``data`` and ``mlflow.db``.
        uri: Of the store.
        hooks: Those that are under test; kept from run to run, as in one process of Kedro.
    """

    folder: Path
    uri: str
    hooks: TrackingHooks

    def run(
        self,
        pipeline: Pipeline,
        only_missing_outputs: bool = False,
        pipeline_names: list[str] | None = None,
        **runtime_params: Any,
    ) -> None:
        """What ``KedroSession.run`` does, without a session."""
        params = {"data_dir": str(self.folder / "data"), **runtime_params}
        loader = project_loader(params)
        catalog = DataCatalog.from_config(loader["catalog"])
        for name, value in loader["parameters"].items():
            catalog[f"params:{name}"] = value
        manager = _create_hook_manager()
        for hooks in (self.hooks, CostHooks()):
            manager.register(hooks)
        context = SimpleNamespace(project_path=self.folder, config_loader=loader)
        manager.hook.after_context_created(context=context)
        about = {"pipeline": pipeline, "catalog": catalog}
        about["run_params"] = {"pipeline_names": pipeline_names, "runtime_params": params}
        manager.hook.before_pipeline_run(**about)
        try:
            SequentialRunner().run(
                pipeline, catalog, manager, only_missing_outputs=only_missing_outputs
            )
        except Exception as error:
            manager.hook.on_pipeline_error(error=error, **about)
            raise
        manager.hook.after_pipeline_run(run_result={}, **about)

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    @property
    def runs(self) -> list[Any]:
        """The recorded runs, oldest first."""
        experiment = self.client.get_experiment_by_name("backdoor_pipeline")
        found = self.client.search_runs([experiment.experiment_id]) if experiment else []
        return found[::-1]

    def artifacts(self, run: Any, folder: str | None = None) -> dict[str, Path]:
        """The files of a run by their names; folders end in a slash."""
        root = Path(run.info.artifact_uri.removeprefix("file://"))
        return {
            f"{item.path}{'/' if item.is_dir else ''}": root / item.path
            for item in self.client.list_artifacts(run.info.run_id, folder)
        }


@pytest.fixture(scope="session")
def new_project(empty_store: Path) -> Callable[..., Project]:
    """Makes a project in a folder; ``patch`` points the configuration to its store."""

    def make(folder: Path, patch: pytest.MonkeyPatch) -> Project:
        shutil.copy(empty_store, folder / "mlflow.db")
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.delenv("BACKDOOR_TRACKING", raising=False)
        return Project(folder, uri, TrackingHooks())

    return make


@pytest.fixture
def project(
    new_project: Callable[..., Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """A project for one test."""
    return new_project(tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def small_pipeline() -> Callable[..., Pipeline]:
    """A pipeline with one output of each kind, for one recipe or several."""
    from plotly.graph_objects import Figure

    def history(training: Any, poison: Any) -> dict[str, Any]:
        return {"loss": {"step": [1, 2, 3], "value": [0.9, 0.5, 0.4]}}

    def make(*recipes: str, evaluate: Callable[..., Any] = lambda history, rows: METRICS) -> Any:
        train = Node(
            history, ["params:training", "params:poison"], "victim_history", name="train_victim"
        )
        pipeline = Pipeline([train])
        for recipe in recipes or ("btu",):
            inputs = ["victim_history", "params:evaluation"]
            pipeline += Pipeline(
                [
                    Node(evaluate, inputs, "metrics", name="evaluate_models"),
                    Node(
                        lambda metrics: ("<p>report</p>", Figure(), Figure()),
                        "metrics",
                        ["report", "drift_figure", "training_figure"],
                        name="build_report",
                    ),
                ],
                namespace=recipe,
                inputs={"victim_history"},
                parameters={"params:evaluation"},
            )
        return pipeline

    return make
