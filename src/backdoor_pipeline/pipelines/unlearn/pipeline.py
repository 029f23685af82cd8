"""Wiring of the unlearn stage: victim model, suspects → purified model, what was done."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.unlearn.nodes import (
    UNLEARNERS,
    plan_clean_pairs,
    plan_last_layers,
)
from backdoor_pipeline.recipes import OF_CLEAN_PAIRS, Recipe


def create_pipeline(recipe: Recipe) -> Pipeline:
    """The unlearners of ``recipe`` one after the other, from the victim to the purified model."""
    models = [
        "victim_model",
        *(f"model_after_{name}" for name in recipe.unlearners[:-1]),
        "purified_model",
    ]
    return Pipeline(
        [
            Node(
                UNLEARNERS[name].function,
                _inputs(name, before, recipe),
                [after, f"{name}_record"],
                name=f"unlearn_by_{name}",
            )
            for name, before, after in zip(recipe.unlearners, models, models[1:], strict=False)
        ],
        tags="unlearn",
    )


def create_plan_pipeline(recipe: Recipe) -> Pipeline:
    """What can be said of the unlearners of ``recipe`` before anything is trained.

    Plans need nothing but data and model, and their names stand before those of the trainings.
    """
    base = ["base_model"] if recipe.from_base else []
    return Pipeline(
        [
            Node(
                plan_clean_pairs if name in OF_CLEAN_PAIRS else plan_last_layers,
                ["examples", f"params:{name}", "params:model", "params:seed", *base],
                f"{name}_plan",
                name=f"plan_{name}",
            )
            for name in recipe.planned
        ],
        tags="unlearn",
    )


def _inputs(name: str, before: str, recipe: Recipe) -> list[str]:
    """What the node of an unlearner takes, the model that it starts from first."""
    base = ["base_model"] if UNLEARNERS[name].from_base and recipe.from_base else []
    return [before, *UNLEARNERS[name].inputs, *base]
