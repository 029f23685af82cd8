"""Nodes of the report stage; like ``evaluate``, it may read the ground truth."""

from __future__ import annotations

from typing import Any

import pandas as pd

from backdoor_pipeline.formatting import flat
from backdoor_pipeline.pipelines.report import figures, model_card, page
from backdoor_pipeline.pipelines.report.params import ReportParams


def draw_figures(
    metrics: dict[str, Any],
    all_parameters: dict[str, Any],
    suspects: pd.DataFrame | None = None,
    of_tokens: bool = True,
    trigger_search_record: dict[str, Any] | None = None,
    local_forgetting_record: dict[str, Any] | None = None,
    **histories: dict[str, Any],
) -> dict[str, Any]:
    """The plotly figures of the cell by name; see ``figures``.

    Args:
        metrics: Of the cell.
        all_parameters: Of the run.
        suspects: None, and nothing is drawn of them, where the recipe has no detector.
        of_tokens: Whether they are tokens: nothing is drawn of suspected examples.
        trigger_search_record: Of the search; None, and none is drawn, where the recipe has none.
        local_forgetting_record: Likewise of the forgetting.
        histories: ``victim_history`` and so on.
    """
    curves = {name.removesuffix("_history"): history for name, history in histories.items()}
    drawn = {
        "before_after_figure": figures.before_after_figure(metrics),
        "training_figure": figures.training_figure(curves),
    }
    if suspects is not None and of_tokens:
        margin = flat(all_parameters).get("token_association.margin")
        drawn["drift_figure"] = figures.drift_figure(suspects)
        drawn["association_figure"] = figures.association_figure(suspects, margin)
    if trigger_search_record is not None:
        rho = flat(all_parameters).get("trigger_search.rho")
        drawn["search_figure"] = figures.search_figure(trigger_search_record, rho)
    if local_forgetting_record is not None:
        drawn["forgetting_figure"] = figures.forgetting_figure(local_forgetting_record)
    if suspects is not None and "trusted_similarity" in suspects:
        drawn["similarity_figure"] = figures.similarity_figure(suspects)
    return drawn


def build_report(
    metrics: dict[str, Any],
    predictions: pd.DataFrame,
    examples: pd.DataFrame,
    poisoned_train: pd.DataFrame,
    triggered_test: pd.DataFrame,
    integrity: dict[str, Any],
    poison_summary: dict[str, Any],
    all_parameters: dict[str, Any],
    params: ReportParams,
    recipe: str,
    told: bool = False,
    suspects: pd.DataFrame | None = None,
    **drawn: Any,
) -> str:
    """One HTML page that opens offline: the verdict first, then the evidence for it.

    ``told``: whether the suspects are rows that the defender was told, not what a detector found.
    """
    cell = page.Cell(
        recipe=recipe,
        told=told,
        metrics=metrics,
        suspects=suspects,
        predictions=predictions,
        examples=examples,
        poisoned_train=poisoned_train,
        triggered_test=triggered_test,
        integrity=integrity,
        poison_summary=poison_summary,
        parameters=all_parameters,
    )
    named = {name.removesuffix("_figure"): figure for name, figure in drawn.items()}
    return page.render(cell, named, params)


def write_model_card(
    metrics: dict[str, Any],
    poison_summary: dict[str, Any],
    all_parameters: dict[str, Any],
    recipe: str,
    suspects: pd.DataFrame | None = None,
) -> str:
    """The Hugging Face model card of the purified model, as Markdown."""
    return model_card.write(metrics, suspects, poison_summary, all_parameters, recipe)
