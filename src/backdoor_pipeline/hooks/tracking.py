"""Every ``kedro run`` becomes one MLflow run.

A catalog entry opts in by ``metadata: {mlflow: KIND}``; the kinds are the keys of ``AT_ONCE`` and
``AT_THE_END``. The outputs of nodes that were skipped, because they exist, are recorded as well: a
run that had nothing left to do is complete in MLflow.
"""

from __future__ import annotations

import atexit
import logging
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from backdoor_pipeline.datasets.costs import CostsDataset
from backdoor_pipeline.hooks.mlflow_run import OUTPUTS, MlflowRun, check_settings, open_run
from backdoor_pipeline.hooks.run_facts import flatten, origin, recipes_of, used_parameters
from backdoor_pipeline.pipelines.report.summary import summary_table
from backdoor_pipeline.recipes import RECIPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from plotly.graph_objects import Figure

logger = logging.getLogger(__name__)

HISTORY = "_history"
AT_ONCE = ("metrics", "history", "artifact")
AT_THE_END = ("figure", "model")


class TrackingHooks:
    """Records parameters, metrics, curves, files, costs and how the run ended."""

    def __init__(self) -> None:
        self._run: MlflowRun | None = None
        atexit.register(self._close_interrupted)

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        self._context = context

    @hook_impl
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        self._close_interrupted()
        loader = self._context.config_loader
        self._settings = check_settings(loader["mlflow"])
        if not self._settings.enabled:
            return
        project = Path(self._context.project_path)
        self._catalog, self._parameters = catalog, loader.typed_parameters
        self._data_dir = project / self._parameters.data_dir
        self._stage_keys = loader.keys_of_stages
        self._recipes = recipes_of(pipeline)
        self._recorded: set[str] = set()
        self._nodes_run = 0
        self._note = ""
        self._pid = os.getpid()
        self._tags = origin(pipeline, self._parameters, run_params, project)
        name = _name(pipeline, run_params, self._stage_keys)
        self._tags[OUTPUTS] = f"{self._tags['host']}:{self._data_dir.absolute()} {name}"
        self._run = open_run(self._settings, self._parameters.tracking, name, self._tags)
        with self._tolerance() as run:
            run.log_parameters(used_parameters(pipeline, self._parameters))
            run.log_dataset(self._tags["dataset"], self._tags["data_digest"])

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        self._record(dataset_name, AT_ONCE)

    @hook_impl
    def after_node_run(self) -> None:
        self._nodes_run = getattr(self, "_nodes_run", 0) + 1

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline) -> None:
        outputs = sorted(pipeline.all_outputs())
        for name in outputs:
            self._record(name, AT_ONCE)
        for name in outputs:
            self._record(name, AT_THE_END)
        self._record_figures(pipeline)
        self._record_costs(pipeline)
        self._end("FINISHED", nodes_run=f"{self._nodes_run} of {len(pipeline.nodes)}")
