"""What becomes of each catalog entry in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from backdoor_pipeline.formatting import flat
from backdoor_pipeline.hooks.summary import summary_table
from backdoor_pipeline.recipes import ALL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kedro.io import AbstractDataset, DataCatalog

    from backdoor_pipeline.hooks.mlflow_run import MlflowRun

HISTORY, RECORD = "_history", "_record"
STEP, VALUE = ".step", ".value"


class Recorder:
    """Records data sets by the ``mlflow`` entry of their metadata; ``kinds`` has all there are.

    What belongs to a recipe is named without it (``purified.clean_accuracy``), so that the runs of
    different recipes stand side by side; only where recipes share a run do they lead the name.

    Args:
        run: Where to record.
        catalog: Where the data are.
        recipes: The recipes of the run.
        register_as: Name of the registered model; None: models stay out of MLflow.
        tags: What a registered model shall say of itself.
    """

    def __init__(
        self,
        run: MlflowRun,
        catalog: DataCatalog,
        recipes: list[str],
        register_as: str | None,
        tags: Mapping[str, Any],
    ) -> None:
        self.run = run
        self._catalog = catalog
        self._several = len(recipes) > 1
        self._register_as = register_as
        self._tags = tags
        self._done: set[str] = set()
        self._notes: list[str] = []
        self._figures: dict[str, dict[str, Any]] = {}
        self._models: list[Path] = []
        self.kinds = {
            "metrics": self._record_metrics,
            "history": self._record_history,
            "record": self._record_numbers,
            "artifact": self._record_file,
            "figure": self._keep_figure,
            "model": self._keep_model,
        }

    def record(self, name: str) -> None:
        """Record one data set, unless that is done or its metadata do not ask for it."""
        dataset = self._catalog.get(name)
        kind = (getattr(dataset, "metadata", None) or {}).get("mlflow")
        if kind is not None and name not in self._done:
            self._done.add(name)
            self.kinds[kind](name, dataset)

    def finish(self) -> None:
        """Record what needs the whole run: the page of figures and the registered model."""
        for folder, figures in self._figures.items():
            self.run.log_text(figures_page(figures), f"{folder}figures.html")
        for model in self._models:
            self.run.register_model(model, str(self._register_as), self._tags)

    def record_costs(self, costs: Mapping[str, Mapping[str, float]]) -> None:
        """Record seconds and memory of each node, as ``cost.<node>.wall_seconds``."""
        named = {self._own_name(node): cost for node, cost in costs.items()}
        self.run.log_metrics(flat({"cost": named}))

    def _record_metrics(self, name: str, dataset: AbstractDataset) -> None:
        metrics = dataset.load()
        recipe = name.rpartition(".")[0]
        prefix = f"{recipe}." if self._several else ""
        values = flat(metrics, prefix)
        words = {k: v for k, v in values.items() if isinstance(v, str)}
        self._notes.append(f"```\n{summary_table(metrics, recipe)}\n```")
        self.run.log_metrics(numbers(values))
        self.run.set_tags(words | {"mlflow.note.content": "\n".join(self._notes)})

    def _record_numbers(self, name: str, dataset: AbstractDataset) -> None:
        values = flat({self._own_name(name).removesuffix(RECORD): dataset.load()})
        self.run.log_metrics(numbers(values))
        for curve, points in curves(values).items():
            self.run.log_curve(curve, *points)

    def _record_history(self, name: str, dataset: AbstractDataset) -> None:
        model = self._own_name(name).removesuffix(HISTORY)
        for quantity, curve in dataset.load().items():
            self.run.log_curve(f"{model}.{quantity}", curve["step"], curve["value"])

    def _record_file(self, name: str, dataset: Any) -> None:
        self.run.log_file(Path(dataset._get_load_path()), self._folder(name).rstrip("/") or None)

    def _keep_figure(self, name: str, dataset: AbstractDataset) -> None:
        self._figures.setdefault(self._folder(name), {})[name] = dataset.load()

    def _keep_model(self, name: str, dataset: Any) -> None:
        if self._register_as is not None:
            self._models.append(Path(dataset._get_load_path()))

    def _own_name(self, name: str) -> str:
        """The name of a data set or node without its recipe, if there is one recipe only."""
        recipe, _, rest = name.partition(".")
        return rest if recipe in ALL and not self._several else name

    def _folder(self, name: str) -> str:
        recipe = name.rpartition(".")[0]
        return f"{recipe}/" if recipe and self._several else ""


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those values that MLflow can plot: neither words nor what is not known."""
    return {name: float(v) for name, v in values.items() if isinstance(v, int | float)}


def curves(values: Mapping[str, Any]) -> dict[str, tuple[list[float], list[float]]]:
    """The steps and values of each quantity that was measured at several steps.

    Args:
        values: By dotted names, as ``formatting.flat`` makes them: ``x.step`` and ``x.value``.
    """
    names = [name.removesuffix(STEP) for name in values if name.endswith(STEP)]
    return {name: (values[name + STEP], values[name + VALUE]) for name in names
            if name + VALUE in values}  # fmt: skip


def figures_page(figures: Mapping[str, Any]) -> str:
    """Plotly figures below each other on one HTML page that opens offline."""
    from plotly.io import to_html

    parts = [
        to_html(figure, full_html=False, include_plotlyjs=place == 0)
        for place, figure in enumerate(figures.values())
    ]
    return "\n".join(["<!DOCTYPE html>", '<meta charset="utf-8">', *parts])
