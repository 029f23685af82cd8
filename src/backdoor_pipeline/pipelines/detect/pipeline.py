"""Wiring of the detect stage: training data, pretrained model → suspects."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.detect.nodes import DETECTORS, adopt_suspects, confirm_suspects


def create_pipeline(detectors: tuple[str, ...], recipe: str) -> Pipeline:
    """The nodes of the named detectors, then the one that settles the recipe's suspects.

    A detector's own suspects (``token_drift_suspects``) are shared by all recipes that use it.
    """
    inputs = [f"{detector}_suspects" for detector in detectors]
    settle: Callable[..., pd.DataFrame] = adopt_suspects
    if len(detectors) > 1:
        settle, inputs = confirm_suspects, [*inputs, "params:confirmation"]
    settled = Pipeline(
        [Node(settle, inputs, "suspects", name="settle_suspects", tags="detect")],
        namespace=recipe,
        inputs={name for name in inputs if not name.startswith("params:")},
        parameters={name for name in inputs if name.startswith("params:")},
    )
    return Pipeline([_detector(name) for name in detectors]) + settled


def _detector(name: str) -> Node:
    detector = DETECTORS[name]
    settings = [f"params:{name}", "params:model", "params:compute", "params:seed"]
    return Node(
        detector.function,
        [*detector.inputs, *settings],
        f"{name}_suspects",
        name=f"detect_{name}",
        tags="detect",
    )
