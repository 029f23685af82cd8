"""Wiring of the train stage: (poisoned) examples → victim and reference model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.train.nodes import (
    plan_defended_training,
    train_defended,
    train_image_reference,
    train_image_victim,
    train_observed,
    train_pair_reference,
    train_pair_victim,
    train_pairs_by_isolation,
    train_pairs_by_roclip,
    train_reference,
    train_victim,
)
from backdoor_pipeline.recipes import Modality, Recipe

SETTINGS = ["params:training", "params:model", "params:compute", "params:seed"]
BASE = ["base_model", *SETTINGS]


class Training(NamedTuple):
    """How models of a modality are trained.

    Attributes:
        victim: Function of the poisoned rows, the examples if ``dev``, and ``settings``.
        reference: Function of the examples and ``settings``.
        settings: What both take besides the rows.
        dev: Whether the victim's epoch is chosen on dev rows.
    """

    victim: Callable[..., Any]
    reference: Callable[..., Any]
    settings: list[str]
    dev: bool = True


TRAININGS: dict[Modality, Training] = {
    "text": Training(train_victim, train_reference, BASE),
    "image": Training(train_image_victim, train_image_reference, SETTINGS),
    "pair": Training(train_pair_victim, train_pair_reference, SETTINGS, dev=False),
}


def create_pipeline(modality: Modality = "text", **kwargs: object) -> Pipeline:
    """Train the victim on the poisoned rows and the reference on the clean ones."""
    training = TRAININGS[modality]
    dev = ["examples"] if training.dev else []
    return Pipeline(
        [
            Node(
                training.victim,
                ["poisoned_train", *dev, *training.settings],
                ["victim_model", "victim_history"],
                name="train_victim",
            ),
            Node(
                training.reference,
                ["examples", *training.settings],
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
    if recipe.modality == "pair":
        return _defended_pairs(recipe)
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


DEFENDED_PAIRS: dict[str, Callable[..., Any]] = {
    "roclip": train_pairs_by_roclip,
    "pair_isolation": train_pairs_by_isolation,
}
"""By name, which is also that of the parameter group."""


def _defended_pairs(recipe: Recipe) -> Pipeline:
    """One method at most: of pairs, they do not go together."""
    return Pipeline(
        [
            Node(
                DEFENDED_PAIRS[name],
                ["poisoned_train", f"params:{name}", *SETTINGS],
                ["purified_model", "purified_history", "defended_training_record"],
                name="train_defended",
            )
            for name in recipe.training
        ],
        tags="train",
    )
