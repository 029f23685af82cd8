"""Wiring of the evaluate stage: models, test sets → predictions, metrics."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.evaluate.nodes import (
    evaluate,
    evaluate_discovery,
    predict_purified,
    predict_reference,
    predict_victim,
)
from backdoor_pipeline.recipes import Recipe

TESTS = ["examples", "triggered_test", "params:model", "params:compute"]


def create_undefended_pipeline(**kwargs: object) -> Pipeline:
    """What all defences share: the predictions of the reference and of the undefended victim."""
    return Pipeline(
        [
            Node(
                predict_reference,
                ["reference_model", *TESTS],
                "reference_predictions",
                name="predict_reference",
            ),
            Node(
                predict_victim,
                ["victim_model", *TESTS],
                "victim_predictions",
                name="predict_victim",
            ),
        ],
        tags="evaluate",
    )


def create_discovery_pipeline(**kwargs: object) -> Pipeline:
    """The curve of what heals by the share of the poison that is known."""
    return Pipeline(
        [
            Node(
                evaluate_discovery,
                ["discovery_predictions", "examples", "triggered_test", "poisoned_train"],
                ["discovery_curve", "discovery_summary"],
                name="evaluate_discovery",
            )
        ],
        tags="evaluate",
    )


def create_pipeline(recipe: Recipe) -> Pipeline:
    """Predict with the purified model of ``recipe`` and compute the metrics of the cell."""
    names = [
        "predictions",
        "triggered_test",
        "poisoned_train",
        "examples",
        "costs",
        *(["base_tokenizer"] if recipe.from_base else []),
    ]
    settings = {"params": "params:evaluation", "own_data": "params:source.data"}
    suspects = ["suspects"] if recipe.detector else []
    found = [*suspects, *(f"{method}_record" for method in recipe.recorded)]
    return Pipeline(
        [
            Node(
                predict_purified,
                ["reference_predictions", "victim_predictions", "purified_model", *TESTS],
                "predictions",
                name="predict_purified",
            ),
            Node(
                evaluate,
                {**{name: name for name in names}, **settings, **{name: name for name in found}},
                "metrics",
                name="evaluate_models",
            ),
        ],
        tags="evaluate",
    )
