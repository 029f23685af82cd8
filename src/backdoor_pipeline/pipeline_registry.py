"""The front door: which stages make which named pipeline."""

from __future__ import annotations

from typing import get_args

from kedro.pipeline import Pipeline

from backdoor_pipeline.pipelines.analyse import pipeline as analyse
from backdoor_pipeline.pipelines.detect import pipeline as detect
from backdoor_pipeline.pipelines.evaluate import pipeline as evaluate
from backdoor_pipeline.pipelines.ingest import pipeline as ingest
from backdoor_pipeline.pipelines.poison import pipeline as poison
from backdoor_pipeline.pipelines.report import pipeline as report
from backdoor_pipeline.pipelines.train import pipeline as train
from backdoor_pipeline.pipelines.unlearn import pipeline as unlearn
from backdoor_pipeline.recipes import DEFAULT, DETECTORS, RECIPES, Modality

SHARED = {
    "raw_clean_source",
    "examples",
    "integrity",
    "poisoned_train",
    "triggered_test",
    "poison_index",
    "poison_summary",
    "encoded_images",
    "base_model",
    "base_tokenizer",
    "victim_model",
    "victim_history",
    "reference_history",
    "reference_predictions",
    "victim_predictions",
    *(f"{detector}_record" for detector in DETECTORS),
}
"""What all recipes of a cell share; everything else that a recipe makes has its name in front."""


def register_pipelines() -> dict[str, Pipeline]:
    """Every recipe, and every stage on its own (the later ones as in the default recipe)."""
    before = {modality: _undefended(modality) for modality in get_args(Modality)}
    parts = {name: _parts(name) for name in RECIPES}
    pipelines = {
        name: sum((*before[RECIPES[name].modality].values(), *part.values()), Pipeline([]))
        for name, part in parts.items()
    }
    ingested, poisoned, trained = before["text"].values()
    fourier = ingested + poisoned + poison.create_dev_pipeline()
    fourier += train.create_observed_pipeline() + analyse.create_pipeline()
    stages = {**parts[DEFAULT], "ingest": ingested, "poison": poisoned, "train": trained}
    return {**pipelines, **stages, "fourier": fourier, "__default__": pipelines[DEFAULT]}


def _undefended(modality: Modality) -> dict[str, Pipeline]:
    """The stages up to the undefended victim, which all recipes of a modality share."""
    return {
        "ingest": ingest.create_pipeline(),
        "poison": poison.create_pipeline(modality),
        "train": train.create_pipeline(modality) + evaluate.create_undefended_pipeline(),
    }


def _parts(name: str) -> dict[str, Pipeline]:
    """The stages of a recipe after training, in the recipe's namespace."""
    recipe = RECIPES[name]
    own = {
        "train": ingest.create_clean_rows_pipeline(recipe) + train.create_defended_pipeline(recipe),
        "unlearn": unlearn.create_pipeline(recipe),
        "evaluate": evaluate.create_pipeline(recipe),
        "report": report.create_pipeline(name, recipe),
    }
    suspects = {"suspects": f"{recipe.detector}_suspects"} if recipe.detector else {}
    return {
        "detect": detect.create_pipeline(recipe),
        **{stage: _in_namespace(pipeline, name, suspects) for stage, pipeline in own.items()},
    }


def _in_namespace(pipeline: Pipeline, namespace: str, renamed: dict[str, str]) -> Pipeline:
    read = pipeline.inputs()
    shared = {name: name for name in SHARED} | renamed
    return Pipeline(
        pipeline,
        namespace=namespace,
        inputs={name: shared[name] for name in shared.keys() & read},
        parameters={name for name in read if name.startswith("params:")},
    )
