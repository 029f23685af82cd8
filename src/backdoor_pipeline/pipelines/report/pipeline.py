"""Wiring of the report stage: metrics, suspects → figures, HTML page, model card."""

from __future__ import annotations

from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.report.nodes import build_report, draw_figures, write_model_card
from backdoor_pipeline.recipes import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

SHOWN = (
    "predictions",
    "examples",
    "poisoned_train",
    "triggered_test",
    "integrity",
)


def create_pipeline(name: str, recipe: Recipe) -> Pipeline:
    """Draw the figures, build the page of ``recipe``, called ``name``, and write its model card."""
    figures = _same(*(f"{figure}_figure" for figure in recipe.figures))
    parameters = {"all_parameters": "parameters"}
    suspects = _same("suspects") if recipe.detector else {}
    told = _same("metrics", "poison_summary") | parameters | suspects
    trained = ("victim", "reference", *(["purified"] if recipe.training else []))
    histories = _same(*(f"{model}_history" for model in trained))
    drawn = {"search": "trigger_search_record", "forgetting": "local_forgetting_record"}
    records = _same(*(record for name, record in drawn.items() if name in recipe.figures))
    return Pipeline(
        [
            Node(
                _with(draw_figures, of_tokens=recipe.suspects_tokens),
                _same("metrics") | parameters | suspects | histories | records,
                figures,
                name="draw_figures",
            ),
            Node(
                _with(build_report, recipe=name, told=recipe.is_told),
                told | _same(*SHOWN) | {"params": "params:report"} | figures,
                "report",
                name="build_report",
            ),
            Node(_with(write_model_card, recipe=name), told, "model_card", name="write_model_card"),
        ],
        tags="report",
    )


def _same(*names: str) -> dict[str, str]:
    """Data sets that the node calls by their own names."""
    return {name: name for name in names}


def _with(node: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    """``node`` with some arguments that are no data sets, under its own name."""
    return update_wrapper(partial(node, **fixed), node)
