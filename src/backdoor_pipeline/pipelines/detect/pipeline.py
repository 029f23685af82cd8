"""Wiring of the detect stage: training data, pretrained model → suspects."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.detect.nodes import DETECTORS
from backdoor_pipeline.recipes import Recipe


def create_pipeline(recipe: Recipe) -> Pipeline:
    """The detectors of ``recipe``, whose suspects are shared by all recipes that use them."""
    return Pipeline(
        [
            Node(
                DETECTORS[name].function,
                list(DETECTORS[name].inputs),
                [f"{name}_suspects", f"{name}_record"],
                name=f"detect_{name}",
            )
            for name in recipe.detectors
        ],
        tags="detect",
    )
