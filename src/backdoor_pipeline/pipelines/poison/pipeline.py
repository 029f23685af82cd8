"""The wiring of the poison stage: one node, so that the poison is drawn once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.poison.nodes import (
    poison_images,
    poison_pairs,
    poison_train,
    trigger_dev,
)
from backdoor_pipeline.recipes import Modality

INPUTS = [
    "examples",
    "base_tokenizer",
    "params:poison",
    "params:model.max_length",
    "params:seed",
]
IMAGE_INPUTS = ["examples", "encoded_images", "params:poison", "params:seed"]
PAIR_INPUTS = [
    "examples",
    "encoded_images",
    "integrity",
    "params:poison",
    "params:ingest",
    "params:seed",
]
POISONINGS: dict[Modality, tuple[Callable[..., Any], list[str]]] = {
    "text": (poison_train, INPUTS),
    "image": (poison_images, IMAGE_INPUTS),
    "pair": (poison_pairs, PAIR_INPUTS),
}
"""Modality -> what poisons such data, and what that takes."""
OUTPUTS = ("poisoned_train", "triggered_test", "poison_index", "poison_summary")


def create_pipeline(modality: Modality = "text", **kwargs: object) -> Pipeline:
    """``examples`` → poisoned training set, triggered test set, poison index, summary."""
    function, inputs = POISONINGS[modality]
    outputs = {name: name for name in OUTPUTS}
    return Pipeline([Node(function, inputs, outputs, name=function.__name__, tags="poison")])


def create_dev_pipeline(**kwargs: object) -> Pipeline:
    """``examples`` → triggered dev rows, which only analyses need."""
    return Pipeline([Node(trigger_dev, INPUTS, "triggered_dev", name="trigger_dev", tags="poison")])
