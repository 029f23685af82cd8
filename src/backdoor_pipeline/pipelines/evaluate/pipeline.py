"""Wiring of the evaluate stage: models, test sets → predictions, metrics."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.evaluate.nodes import (
    evaluate,
    predict_purified,
    predict_undefended,
)

TESTS = ["examples", "triggered_test", "params:model", "params:compute"]


def create_undefended_pipeline(**kwargs: object) -> Pipeline:
    """What all defences share: the predictions of reference and victim."""
    return Pipeline(
        [
            Node(
                predict_undefended,
                ["reference_model", "victim_model", *TESTS],
                "undefended_predictions",
                name="predict_undefended",
            )
        ],
        tags="evaluate",
    )


def create_pipeline(**kwargs: object) -> Pipeline:
    """Predict with the purified model and compute the metrics of the cell."""
    return Pipeline(
        [
            Node(
                predict_purified,
                ["undefended_predictions", "purified_model", *TESTS],
                "predictions",
                name="predict_purified",
            ),
            Node(
                evaluate,
                [
                    "predictions",
                    "triggered_test",
                    "poisoned_train",
                    "suspects",
                    "base_tokenizer",
                    "examples",
                    "costs",
                    "params:evaluation",
                    "params:fine_tune.rows",
                    "params:source.data",
                ],
                "metrics",
                name="evaluate_models",
            ),
        ],
        tags="evaluate",
    )
