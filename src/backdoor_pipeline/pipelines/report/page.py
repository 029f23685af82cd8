"""The HTML page: one file, no address outside it, everything from the data escaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from backdoor_pipeline import formatting
from backdoor_pipeline.pipelines.report import evidence
from backdoor_pipeline.pipelines.report.verdict import describe_told, judge
from backdoor_pipeline.presentation import embedded, plotly_script, template
from backdoor_pipeline.schemas import content

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from backdoor_pipeline.pipelines.report.params import ReportParams

TEMPLATE = "report.html.jinja"
TITLES = {
    "reference": "Reference, trained without poison",
    "victim": "Victim, undefended",
    "purified": "Purified",
}
SEVERITIES = ("error", "warning", "info")
PACKAGES = ("backdoor-pipeline", "kedro", "torch", "transformers", "numpy", "pandas", "plotly")


class Cell(NamedTuple):
    """Everything a page tells about: one recipe on one data set, attack and seed.

    ``suspects`` is None where the recipe has no detector; where they were ``told``, they are rows
    that the defender was told.
    """

    recipe: str
    told: bool
    metrics: Mapping[str, Any]
    suspects: pd.DataFrame | None
    predictions: pd.DataFrame
    examples: pd.DataFrame
    poisoned_train: pd.DataFrame
    triggered_test: pd.DataFrame
    integrity: Mapping[str, Any]
    poison_summary: Mapping[str, Any]
    parameters: Mapping[str, Any]

    @property
    def title(self) -> str:
        """Recipe / data set / attack / seed."""
        return " / ".join(
            [
                self.recipe,
                dataset_name(self.integrity),
                str(self.poison_summary.get("attack", "?")),
                f"seed {self.parameters.get('seed', '?')}",
            ]
        )


def dataset_name(integrity: Mapping[str, Any]) -> str:
    """The data set, with its variant where it is not the published one."""
    name, variant = integrity.get("dataset", "data"), integrity.get("variant", "paper")
    return name if variant == "paper" else f"{name}@{variant}"


def render(cell: Cell, figures: Mapping[str, Figure], params: ReportParams) -> str:
    """The page of ``cell``.

    Args:
        cell: What to tell.
        figures: ``before_after``, ``training``, of suspects ``drift`` and ``association``, of a
            search ``search``.
        params: How much of it to show.
    """
    label_names = dict(enumerate(cell.integrity.get("label_names") or []))
    rank = {severity: place for place, severity in enumerate(SEVERITIES)}
    target_label = cell.poison_summary.get("target_label")
    detector, comparison = (cell.metrics.get(name) or {} for name in ("detector", "comparison"))
    return template(__package__, TEMPLATE).render(
        title=cell.title,
        kind=content(cell.examples),
        verdict=judge(cell.metrics, cell.suspects, cell.poison_summary, params, told=cell.told),
        models=_model_rows(cell.metrics),
        comparison=comparison,
        healed=formatting.rate(comparison, "healed"),
        detector=detector,
        told=describe_told(detector, cell.poison_summary) if cell.told else None,
        isolation=cell.metrics.get("isolation"),
        cost=cell.metrics.get("cost") or {},
        attacks=evidence.attack_examples(
            cell.predictions, cell.triggered_test, cell.examples, target_label, params
        ),
        changes=evidence.changed_examples(cell.predictions, cell.examples, params),
        suspects=None
        if cell.suspects is None
        else evidence.suspect_rows(cell.suspects, cell.poisoned_train, params),
        label_names=label_names,
        target_label=target_label,
        control=cell.poison_summary.get("poisoned_rows") == 0,
        findings=sorted(cell.integrity.get("findings") or [], key=lambda f: rank[f["severity"]]),
        splits=cell.integrity.get("splits") or {},
        files=cell.integrity.get("files") or {},
        poison_summary=formatting.flat(cell.poison_summary),
        parameters=formatting.flat(cell.parameters),
        versions=_versions(),
        plotly_js=plotly_script(),
        figures={name: embedded(name, figure) for name, figure in figures.items()},
    )


def _model_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    rates = ("clean_accuracy", "attack_success_rate", "robust_accuracy")
    return [
        {"name": name, **{key: formatting.rate(metrics[model], key) for key in rates},
         "excess": metrics[model].get("attack_success_excess"),
         "n_clean": metrics[model].get("clean_accuracy_n"),
         "n_triggered": metrics[model].get("attack_success_rate_n")}
        for model, name in TITLES.items()
        if metrics.get(model)
    ]  # fmt: skip


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from backdoor_pipeline import __version__

    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # the project itself, run from its source folder
            versions[package] = __version__ if package == "backdoor-pipeline" else "not installed"
    return versions
