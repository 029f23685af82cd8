"""Wiring of the evaluate stage: models, test sets → predictions, metrics."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.pipelines.evaluate.nodes import (
    evaluate,
    evaluate_discovery,
    measure_retrieval,
    name_classes,
    predict_purified,
    predict_reference,
    predict_victim,
)
from backdoor_pipeline.recipes import Modality, Recipe

TESTS = {
    "examples": "examples",
    "triggered_test": "triggered_test",
    "model": "params:model",
    "compute": "params:compute",
}


def create_undefended_pipeline(modality: Modality = "text", **kwargs: object) -> Pipeline:
    """What all defences share: the predictions of the reference and of the undefended victim."""
    naming = Node(
        name_classes,
        ["integrity", "poison_summary", "params:ingest"],
        "class_prompts",
        name="name_classes",
    )
    tests = _tests(modality)
    return Pipeline(
        [
            *([naming] if "class_prompts" in tests else []),
            Node(
                predict_reference,
                {"reference_model": "reference_model", **tests},
                "reference_predictions",
                name="predict_reference",
            ),
            Node(
                predict_victim,
                {"victim_model": "victim_model", **tests},
                "victim_predictions",
                name="predict_victim",
            ),
        ],
        tags="evaluate",
    )


def create_discovery_pipeline(**kwargs: object) -> Pipeline:
    """The curve of what heals by the share of the poison that is known."""
    return Pipeline(
        [
            Node(
                evaluate_discovery,
                ["discovery_predictions", "examples", "triggered_test", "poisoned_train"],
                ["discovery_curve", "discovery_summary"],
                name="evaluate_discovery",
            )
        ],
        tags="evaluate",
    )


def create_pipeline(recipe: Recipe) -> Pipeline:
    """Predict with the purified model of ``recipe`` and compute the metrics of the cell."""
    names = [
        "predictions",
        "triggered_test",
        "poisoned_train",
        "examples",
        "costs",
        *(["base_tokenizer"] if recipe.from_base else []),
    ]
    settings = {"params": "params:evaluation", "own_data": "params:source.data"}
    suspects = ["suspects"] if recipe.detector else []
    found = [*suspects, *(f"{method}_record" for method in recipe.recorded)]
    models = ["reference_model", "victim_model", "purified_model"]
    retrieving = Node(
        measure_retrieval,
        [*models, "examples", "params:evaluation", "params:model", "params:compute", "params:seed"],
        "retrieved",
        name="measure_retrieval",
    )
    if recipe.modality == "pair":
        names.append("retrieved")
    said = ["reference_predictions", "victim_predictions", "purified_model"]
    return Pipeline(
        [
            *([retrieving] if recipe.modality == "pair" else []),
            Node(
                predict_purified,
                {**{name: name for name in said}, **_tests(recipe.modality)},
                "predictions",
                name="predict_purified",
            ),
            Node(
                evaluate,
                {**{name: name for name in names}, **settings, **{name: name for name in found}},
                "metrics",
                name="evaluate_models",
            ),
        ],
        tags="evaluate",
    )


def _tests(modality: Modality) -> dict[str, str]:
    """What predictions take besides the model; of pairs also what the classes are called."""
    return TESTS | ({"class_prompts": "class_prompts"} if modality == "pair" else {})
