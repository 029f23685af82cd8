"""Wiring of the unlearn stage: victim model, suspects → purified model."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.unlearn.nodes import UNLEARNERS, fine_tune_purified


def create_pipeline(unlearner: str = "token_replacement", **kwargs: object) -> Pipeline:
    """The nodes of one unlearner, then the optional light fine-tune."""
    return Pipeline(
        [
            Node(
                UNLEARNERS[unlearner],
                ["victim_model", "base_model", "suspects", f"params:{unlearner}"],
                "unlearned_model",
                name=f"unlearn_by_{unlearner}",
            ),
            Node(
                fine_tune_purified,
                [
                    "unlearned_model",
                    "examples",
                    "params:fine_tune",
                    "params:model",
                    "params:compute",
                    "params:seed",
                ],
                "purified_model",
                name="fine_tune_lightly",
            ),
        ],
        tags="unlearn",
    )
