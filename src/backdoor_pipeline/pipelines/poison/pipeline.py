"""The wiring of the poison stage: one node, so that the poison is drawn once."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.poison.nodes import poison_train


def create_pipeline(**kwargs: object) -> Pipeline:
    """``examples`` → poisoned training set, triggered test set, poison index, summary."""
    return Pipeline(
        [
            Node(
                poison_train,
                inputs=[
                    "examples",
                    "base_tokenizer",
                    "params:poison",
                    "params:model.max_length",
                    "params:seed",
                ],
                outputs={
                    name: name
                    for name in (
                        "poisoned_train",
                        "triggered_test",
                        "poison_index",
                        "poison_summary",
                    )
                },
                name="poison_train",
                tags="poison",
            )
        ]
    )
