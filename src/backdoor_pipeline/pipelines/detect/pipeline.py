"""Wiring of the detect stage: training data, pretrained model → suspects."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.detect.nodes import DETECTORS, plan_discovered_share
from backdoor_pipeline.recipes import Recipe


def create_pipeline(recipe: Recipe) -> Pipeline:
    """The detectors of ``recipe``, whose suspects are shared by all recipes that use them.

    What a defender is told is planned before all trainings: the plan needs nothing but the
    examples, and its name stands before theirs.
    """
    plan = Node(
        plan_discovered_share,
        ["examples", "params:poison", "params:discovered_share", "params:seed"],
        "discovered_share_plan",
        name="plan_discovered_share",
    )
    detections = [
        Node(
            DETECTORS[name].function,
            list(DETECTORS[name].inputs),
            [f"{name}_suspects", f"{name}_record"],
            name=f"detect_{name}",
        )
        for name in recipe.detectors
    ]
    told = [plan] if recipe.is_told else []
    return Pipeline([*told, *detections], tags="detect")
