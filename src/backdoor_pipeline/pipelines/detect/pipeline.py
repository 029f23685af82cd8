"""Wiring of the detect stage: training data, pretrained model → suspects."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.detect.nodes import DETECTORS, adopt_suspects, confirm_suspects


def create_pipeline(detectors: tuple[str, ...], recipe: str) -> Pipeline:
    """The nodes of the named detectors, then the one that settles the recipe's suspects.

    A detector's own suspects (``token_drift.suspects``) are shared by all recipes that use it.
    """
    names = ("raised", "confirming")[: len(detectors)]
    if len(detectors) == 1:
        settle = Node(adopt_suspects, list(names), "suspects", name="settle_suspects")
    else:
        inputs = [*names, "params:confirmation"]
        settle = Node(confirm_suspects, inputs, "suspects", name="settle_suspects")
    settled = Pipeline(
        [settle],
        tags="detect",
        namespace=recipe,
        inputs={n: f"{d}.suspects" for n, d in zip(names, detectors, strict=True)},
        parameters={"params:confirmation"} & set(settle.inputs),
    )
    return sum((_detector(name) for name in detectors), settled)


def _detector(name: str) -> Pipeline:
    template = Pipeline(
        [
            Node(
                DETECTORS[name],
                [
                    "poisoned_train",
                    "base_model",
                    f"params:{name}",
                    "params:model",
                    "params:compute",
                    "params:seed",
                ],
                "suspects",
                name="detect",
            )
        ],
        tags="detect",
    )
    return Pipeline(
        template,
        namespace=name,
        inputs={"poisoned_train", "base_model"},
        parameters={f"params:{name}", "params:model", "params:compute", "params:seed"},
    )
