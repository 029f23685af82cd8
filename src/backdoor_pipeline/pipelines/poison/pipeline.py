"""The wiring of the poison stage: one node, so that the poison is drawn once."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.poison.nodes import poison_train, trigger_dev

INPUTS = [
    "examples",
    "base_tokenizer",
    "params:poison",
    "params:model.max_length",
    "params:seed",
]
OUTPUTS = ("poisoned_train", "triggered_test", "poison_index", "poison_summary")


def create_pipeline(**kwargs: object) -> Pipeline:
    """``examples`` → poisoned training set, triggered test set, poison index, summary."""
    outputs = {name: name for name in OUTPUTS}
    return Pipeline([Node(poison_train, INPUTS, outputs, name="poison_train", tags="poison")])


def create_dev_pipeline(**kwargs: object) -> Pipeline:
    """``examples`` → triggered dev rows, which only analyses need."""
    return Pipeline([Node(trigger_dev, INPUTS, "triggered_dev", name="trigger_dev", tags="poison")])
