"""The wiring of the poison stage: one node, so that the poison is drawn once."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.poison.nodes import poison_images, poison_train, trigger_dev
from backdoor_pipeline.recipes import Modality

INPUTS = [
    "examples",
    "base_tokenizer",
    "params:poison",
    "params:model.max_length",
    "params:seed",
]
IMAGE_INPUTS = ["examples", "encoded_images", "params:poison", "params:seed"]
OUTPUTS = ("poisoned_train", "triggered_test", "poison_index", "poison_summary")


def create_pipeline(modality: Modality = "text", **kwargs: object) -> Pipeline:
    """``examples`` → poisoned training set, triggered test set, poison index, summary."""
    outputs = {name: name for name in OUTPUTS}
    if modality == "image":
        node = Node(poison_images, IMAGE_INPUTS, outputs, name="poison_images", tags="poison")
    else:
        node = Node(poison_train, INPUTS, outputs, name="poison_train", tags="poison")
    return Pipeline([node])


def create_dev_pipeline(**kwargs: object) -> Pipeline:
    """``examples`` → triggered dev rows, which only analyses need."""
    return Pipeline([Node(trigger_dev, INPUTS, "triggered_dev", name="trigger_dev", tags="poison")])
