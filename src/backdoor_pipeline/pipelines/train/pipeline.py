"""Wiring of the train stage: (poisoned) examples → victim and reference model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.train.nodes import (
    plan_defended_training,
    train_defended,
    train_image_reference,
    train_image_victim,
    train_observed,
    train_reference,
    train_victim,
)
from backdoor_pipeline.recipes import Modality, Recipe

SETTINGS = ["params:training", "params:model", "params:compute", "params:seed"]
BASE = ["base_model", *SETTINGS]
TRAININGS: dict[Modality, tuple[Callable[..., Any], Callable[..., Any], list[str]]] = {
    "text": (train_victim, train_reference, BASE),
    "image": (train_image_victim, train_image_reference, SETTINGS),
}
"""Modality -> how victim and reference are trained, and what that takes besides the rows."""


def create_pipeline(modality: Modality = "text", **kwargs: object) -> Pipeline:
    """Train the victim on the poisoned rows and the reference on the clean ones."""
    victim, reference, settings = TRAININGS[modality]
    return Pipeline(
        [
            Node(
                victim,
                ["poisoned_train", "examples", *settings],
                ["victim_model", "victim_history"],
                name="train_victim",
            ),
            Node(
                reference,
                ["examples", *settings],
                ["reference_model", "reference_history"],
                name="train_reference",
            ),
        ],
        tags="train",
    )


def create_observed_pipeline(**kwargs: object) -> Pipeline:
    """Train the victim once more, and look at it meanwhile."""
    training, *settings = SETTINGS
    read = ["poisoned_train", "examples", "triggered_dev", "base_model"]
    return Pipeline(
        [
            Node(
                train_observed,
                [*read, training, "params:observation", *settings],
                "observations",
                name="train_observed",
            )
        ],
        tags="train",
    )


def create_defended_pipeline(recipe: Recipe) -> Pipeline:
    """Train the purified model by the methods of ``recipe``; nothing if it has none.

    The plan comes first of all trainings: it needs nothing but data and model, and its name (with
    that of the recipe) stands before theirs.
    """
    read = {name: name for name in ("examples", "base_model")}
    data = {name: name for name in ("poisoned_train", *recipe.drawn)}
    settings = {name: f"params:{name}" for name in ("model", "seed", *recipe.training)}
    settings["params"] = "params:defended_training"
    plan = Node(
        plan_defended_training,
        read | settings,
        "defended_training_plan",
        name="plan_defended_training",
    )
    training = Node(
        train_defended,
        read | data | settings | {"compute": "params:compute"},
        ["purified_model", "purified_history", "defended_training_record"],
        name="train_defended",
    )
    return Pipeline([plan, training] if recipe.training else [], tags="train")
