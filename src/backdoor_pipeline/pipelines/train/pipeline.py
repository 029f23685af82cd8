"""Wiring of the train stage: (poisoned) examples → victim and reference model."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.train.nodes import train_reference, train_victim

SETTINGS = ["base_model", "params:training", "params:model", "params:compute", "params:seed"]


def create_pipeline(**kwargs: object) -> Pipeline:
    """Train the victim on the poisoned rows and the reference on the clean ones."""
    return Pipeline(
        [
            Node(
                train_victim,
                ["poisoned_train", "examples", *SETTINGS],
                ["victim_model", "victim_history"],
                name="train_victim",
            ),
            Node(
                train_reference,
                ["examples", *SETTINGS],
                ["reference_model", "reference_history"],
                name="train_reference",
            ),
        ],
        tags="train",
    )
