"""Wiring of the report stage: metrics, suspects → figures, HTML page, model card."""

from __future__ import annotations

from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.report.nodes import build_report, draw_figures, write_model_card

if TYPE_CHECKING:
    from collections.abc import Callable

FIGURES = ["before_after_figure", "drift_figure", "association_figure", "training_figure"]


def create_pipeline(recipe: str) -> Pipeline:
    """Draw the figures, build the page of ``recipe`` and write its model card."""
    return Pipeline(
        [
            Node(
                draw_figures,
                ["metrics", "suspects", "victim_history", "reference_history", "parameters"],
                {name: name for name in FIGURES},
                name="draw_figures",
            ),
            Node(
                _of(recipe, build_report),
                [
                    "metrics",
                    "suspects",
                    "predictions",
                    "examples",
                    "poisoned_train",
                    "triggered_test",
                    "integrity",
                    "poison_summary",
                    *FIGURES,
                    "parameters",
                    "params:report",
                ],
                "report",
                name="build_report",
            ),
            Node(
                _of(recipe, write_model_card),
                ["metrics", "suspects", "poison_summary", "parameters"],
                "model_card",
                name="write_model_card",
            ),
        ],
        tags="report",
    )


def _of(recipe: str, node: Callable[..., str]) -> Callable[..., Any]:
    """``node`` for one recipe, under its own name."""
    return update_wrapper(partial(node, recipe=recipe), node)
