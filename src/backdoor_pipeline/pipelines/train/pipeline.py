"""Wiring of the train stage: (poisoned) examples → victim and reference model."""

from __future__ import annotations

from collections.abc import Callable

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

IMAGE_SETTINGS = ["params:training", "params:model", "params:compute", "params:seed"]
SETTINGS = ["base_model", *IMAGE_SETTINGS]


def create_pipeline(modality: Modality = "text", **kwargs: object) -> Pipeline:
    """Train the victim on the poisoned rows and the reference on the clean ones."""
    victim: Callable[..., object] = train_victim
    reference: Callable[..., object] = train_reference
    settings = SETTINGS
    if modality == "image":
        victim, reference = train_image_victim, train_image_reference
        settings = IMAGE_SETTINGS
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
    before, (training, *settings) = SETTINGS[:1], SETTINGS[1:]
    read = ["poisoned_train", "examples", "triggered_dev", *before]
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
