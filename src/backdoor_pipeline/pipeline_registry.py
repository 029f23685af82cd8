"""The front door: which stages make which named pipeline."""

from __future__ import annotations

from functools import cache

from kedro.pipeline import Pipeline

from backdoor_pipeline.pipelines.analyse import pipeline as analyse
from backdoor_pipeline.pipelines.audit import pipeline as audit
from backdoor_pipeline.pipelines.detect import pipeline as detect
from backdoor_pipeline.pipelines.detect.nodes import tell_discovered_share
from backdoor_pipeline.pipelines.evaluate import pipeline as evaluate
from backdoor_pipeline.pipelines.ingest import pipeline as ingest
from backdoor_pipeline.pipelines.poison import pipeline as poison
from backdoor_pipeline.pipelines.report import pipeline as report
from backdoor_pipeline.pipelines.train import pipeline as train
from backdoor_pipeline.pipelines.unlearn import pipeline as unlearn
from backdoor_pipeline.pipelines.unlearn.nodes import UNLEARNERS
from backdoor_pipeline.recipes import ALL, DEFAULT, DETECTORS, RECIPES, Modality

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
    "reference_model",
    "reference_predictions",
    "class_prompts",
    "victim_predictions",
    *(f"{detector}_record" for detector in DETECTORS),
}
"""What all recipes of a cell share; everything else that a recipe makes has its name in front."""

DEFAULTS: dict[Modality, str] = {"text": DEFAULT, "image": "potion", "pair": "ubt"}
"""Modality -> the recipe whose later stages are the stages on their own."""


def register_pipelines() -> dict[str, Pipeline]:
    """Every recipe, every stage on its own (as it is of texts), the analyses and the audit."""
    pipelines = {name: create_recipe(name) for name in RECIPES}
    stages = create_stages("text")
    fourier = stages["ingest"] + stages["poison"] + poison.create_dev_pipeline()
    fourier += train.create_observed_pipeline() + analyse.create_pipeline()
    analyses = {"fourier": fourier, "discovery": create_discovery("potion")}
    audited = ingest.create_pipeline() + ingest.create_trusted_rows_pipeline()
    analyses["audit"] = audited + audit.create_pipeline()
    return {**pipelines, **stages, **analyses, "__default__": pipelines[DEFAULT]}


def create_recipe(name: str) -> Pipeline:
    """The pipeline of a recipe, from raw data to report."""
    before = _undefended(ALL[name].modality)
    return sum((*before.values(), *_parts(name).values()), Pipeline([]))


@cache
def create_stages(modality: Modality) -> dict[str, Pipeline]:
    """Every stage on its own; those after training as in the default recipe of ``modality``."""
    return {**_parts(DEFAULTS[modality]), **_undefended(modality)}


def create_discovery(name: str) -> Pipeline:
    """The pipeline that follows how a recipe heals as more of the poison is discovered."""
    recipe = ALL[name]
    unlearners = [UNLEARNERS[unlearner] for unlearner in recipe.unlearners]
    curve = analyse.create_discovery_pipeline(recipe, tell_discovered_share, unlearners)
    curve += unlearn.create_plan_pipeline(recipe) + evaluate.create_discovery_pipeline()
    before = _undefended(recipe.modality).values()
    return sum((*before, _in_namespace(curve, name, {})), Pipeline([]))


@cache
def _undefended(modality: Modality) -> dict[str, Pipeline]:
    """The stages up to the undefended victim, which all recipes of a modality share."""
    return {
        "ingest": ingest.create_pipeline(),
        "poison": poison.create_pipeline(modality),
        "train": train.create_pipeline(modality) + evaluate.create_undefended_pipeline(modality),
    }


def _parts(name: str) -> dict[str, Pipeline]:
    """The stages of a recipe after training, in the recipe's namespace."""
    recipe = ALL[name]
    own = {
        "train": ingest.create_clean_rows_pipeline(recipe) + train.create_defended_pipeline(recipe),
        "unlearn": unlearn.create_plan_pipeline(recipe) + unlearn.create_pipeline(recipe),
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
