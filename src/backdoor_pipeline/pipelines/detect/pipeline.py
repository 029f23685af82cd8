"""Wiring of the detect stage: training data, pretrained model → suspects."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.detect.nodes import DETECTORS


def create_pipeline(detectors: tuple[str, ...]) -> Pipeline:
    """The nodes of the named detectors, whose suspects all recipes that use them share."""
    return Pipeline(
        [
            Node(
                DETECTORS[name].function,
                list(DETECTORS[name].inputs),
                [f"{name}_suspects", f"{name}_record"],
                name=f"detect_{name}",
            )
            for name in detectors
        ],
        tags="detect",
    )
