"""Wiring of the detect stage: training data, pretrained model → suspects."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.detect.nodes import (
    DETECTORS,
    draw_trusted_pairs,
    overfit_victim,
    plan_discovered_share,
    plan_overfit_similarity,
    rank_pairs,
    score_by_trusted,
    train_trusted_encoder,
)
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
    exposing = _exposing() if recipe.detector == "overfit_similarity" else []
    return Pipeline([*told, *exposing, *detections], tags="detect")


def _exposing() -> list[Node]:
    """The steps of UBT before the suspects are chosen, each a node."""
    settings = ["params:model", "params:compute"]
    ranking = ["trusted_similarity", "params:overfit_similarity"]
    return [
        Node(
            plan_overfit_similarity,
            ["examples", "params:overfit_similarity"],
            "overfit_similarity_plan",
            name="plan_overfit_similarity",
        ),
        Node(
            draw_trusted_pairs,
            ["examples", "params:trusted_encoder", "params:model", "params:seed"],
            "trusted_pairs",
            name="draw_trusted_pairs",
        ),
        Node(
            train_trusted_encoder,
            ["trusted_pairs", "examples", "params:trusted_encoder", *settings, "params:seed"],
            "trusted_encoder",
            name="train_trusted_encoder",
        ),
        Node(
            score_by_trusted,
            ["poisoned_train", "trusted_encoder", *settings],
            "trusted_similarity",
            name="score_by_trusted",
        ),
        Node(
            overfit_victim,
            [
                *("poisoned_train", "victim_model", *ranking, "params:training"),
                *(*settings, "params:seed"),
            ],
            "overfitted_encoder",
            name="overfit_victim",
        ),
        Node(
            rank_pairs,
            ["poisoned_train", "overfitted_encoder", *ranking, *settings, "params:seed"],
            "pair_ranks",
            name="rank_pairs",
        ),
    ]
