"""Recipes, registry and wiring agree with each other."""

from __future__ import annotations

import re

import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.parameters import Parameters
from backdoor_pipeline.pipeline_registry import SHARED, register_pipelines
from backdoor_pipeline.pipelines.detect.nodes import DETECTORS as DETECTOR_NODES
from backdoor_pipeline.pipelines.train.defended import METHODS
from backdoor_pipeline.pipelines.unlearn.nodes import UNLEARNERS
from backdoor_pipeline.recipes import (
    ALL,
    DEFAULT,
    DETECTORS,
    RECIPES,
    SUSPECT_EXAMPLES,
    crossed,
    modality_of,
)
from tiny import ROOT

STAGES = ["ingest", "poison", "train", "detect", "unlearn", "evaluate", "report"]


@pytest.fixture(scope="module")
def pipelines():
    return register_pipelines()


def test_recipes_are_made_of_what_there_is() -> None:
    assert DEFAULT in RECIPES
    for recipe in RECIPES.values():
        assert set(recipe.detectors) <= DETECTORS.keys()
        assert set(recipe.unlearners) <= UNLEARNERS.keys()
    assert DETECTORS.keys() == DETECTOR_NODES.keys()


def test_detectors_read_what_they_build_on() -> None:
    for name, builds_on in DETECTORS.items():
        read = {i.removesuffix("_suspects") for i in DETECTOR_NODES[name].inputs if "_susp" in i}
        inputs = DETECTOR_NODES[name].inputs
        assert read == set(builds_on) - {"poison", "victim", "trusted"}
        assert ("victim_model" in inputs) == ("victim" in builds_on)
        assert ("trusted_encoder" in inputs) == ("trusted" in builds_on)
        assert ("poisoned_train" in inputs) == bool({"poison", "victim"} & set(builds_on))


@pytest.mark.parametrize("name", [*DETECTOR_NODES, *UNLEARNERS, *METHODS])
def test_every_method_has_a_parameter_group(name) -> None:
    assert name in Parameters.model_fields


def test_recipes_and_stages_are_pipelines(pipelines) -> None:
    assert set(pipelines) == {*RECIPES, *STAGES, "fourier", "discovery", "audit", "__default__"}
    assert pipelines["__default__"].nodes == pipelines[DEFAULT].nodes


def test_the_stages_make_up_the_default_recipe(pipelines) -> None:
    combined = sum((pipelines[name] for name in STAGES[1:]), pipelines[STAGES[0]])
    assert set(combined.nodes) == set(pipelines["__default__"].nodes)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_starts_from_raw_data_and_ends_with_a_report(pipelines, name) -> None:
    pipeline = pipelines[name]
    inputs = {i for i in pipeline.inputs() if not i.startswith("param")}
    second = {"raw_clean_source"} if RECIPES[name].drawn else set()
    texts = RECIPES[name].modality == "text"
    own = {"base_model", "base_tokenizer"} if texts else {"encoded_images"}
    assert inputs == {"raw_source", f"{name}.costs"} | own | second
    assert f"{name}.report" in pipeline.outputs()
    asked = {i.removeprefix("params:").partition(".")[0] for i in pipeline.inputs() if ":" in i}
    assert asked <= Parameters.model_fields.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_what_recipes_share_has_no_namespace_and_the_rest_has(pipelines, name) -> None:
    free = {n for n in pipelines[name].datasets() if "." not in n and not n.startswith("param")}
    shared = SHARED | {f"{detector}_suspects" for detector in DETECTORS}
    steps = {"trusted_pairs", "trusted_encoder", "trusted_similarity", "overfitted_encoder"}
    plans = {"discovered_share_plan", "overfit_similarity_plan"}
    assert free <= shared | steps | plans | {"pair_ranks", "raw_source"}
    for other in set(RECIPES) - {name}:
        assert not {n for n in pipelines[name].datasets() if n.startswith(f"{other}.")}


TOLD = [name for name, recipe in RECIPES.items() if recipe.detector == "discovered_share"]


@pytest.mark.parametrize(
    "name",
    [
        *TOLD,
        *(name for name, made in RECIPES.items() if made.training and made.modality == "text"),
        *("ubt", "cleanclip"),
    ],
)
def test_bad_settings_are_told_before_anything_is_trained(pipelines, name) -> None:
    order = [node.name.rpartition(".")[2] for node in pipelines[name].nodes]
    plan = "plan_discovered_share" if name in TOLD else "plan_defended_training"
    plans = {"ubt": ["plan_overfit_similarity", "draw_trusted_pairs"], "cleanclip": []}
    checks = {*plans.get(name, [plan]), *(["draw_clean_rows"] if RECIPES[name].drawn else [])}
    checks |= {f"plan_{unlearner}" for unlearner in RECIPES[name].planned}
    first = min(order.index(node) for node in order if node.startswith("train_"))
    assert checks <= set(order[:first])


def test_the_curve_is_planned_before_anything_is_trained(pipelines) -> None:
    order = [node.name.rpartition(".")[2] for node in pipelines["discovery"].nodes]
    first = min(order.index(node) for node in order if node.startswith("train_"))
    assert {"plan_discovery", "plan_trigger_search"} <= set(order[:first])


@pytest.mark.parametrize("stage", ["train", "detect", "unlearn", "evaluate", "report", "analyse"])
def test_the_readme_of_a_stage_names_nodes(pipelines, stage) -> None:
    nodes = {node.name.rpartition(".")[2] for p in pipelines.values() for node in p.nodes}
    readme = ROOT / "src" / "backdoor_pipeline" / "pipelines" / stage / "README.md"
    rows = re.findall(r"^\| (`[^|]*) \|", readme.read_text(encoding="utf-8"), re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert told
    assert told <= nodes


def test_every_node_bears_the_tag_of_its_stage_or_its_module(pipelines) -> None:
    for node in pipelines["__default__"].nodes:
        stage = node.func.__module__.split(".")[2]
        assert stage in STAGES
        assert node.tags <= {stage}


class TestModality:
    def test_is_that_of_the_recipes(self) -> None:
        assert modality_of(["potion"]) == modality_of(["ingest", "potion", "ssd"]) == "image"
        assert modality_of(["btu", "potion_text"]) == "text"
        assert modality_of(["ingest", "poison"]) is None
        assert modality_of([]) is None

    def test_is_one_in_a_run(self) -> None:
        with pytest.raises(InputError) as error:
            modality_of(["retrain", "potion", "btu"])
        assert str(error.value) == (
            "btu is for text data, retrain for image data, and a run has one kind of data; run "
            "them one after the other"
        )

    @pytest.mark.parametrize("name", [n for n, made in RECIPES.items() if made.modality == "image"])
    def test_recipes_for_images_never_read_texts(self, pipelines, name) -> None:
        nodes = {node.name.rpartition(".")[2]: node for node in pipelines[name].nodes}
        assert {"poison_images", "train_victim", "train_reference"} <= nodes.keys()
        assert "poison_train" not in nodes
        read = {i for node in nodes.values() for i in node.inputs}
        assert not read & {"base_model", "base_tokenizer", "params:model.max_length"}

    def test_all_recipes_of_images_share_a_victim(self, pipelines) -> None:
        parts = [
            {node for node in pipelines[name].nodes if "." not in node.name}
            for name, made in RECIPES.items()
            if made.modality == "image"
        ]
        assert all(part == parts[0] for part in parts)

    def test_figures_of_tokens_are_of_texts_alone(self) -> None:
        for name, recipe in RECIPES.items():
            tokens = recipe.detector not in {None, *SUSPECT_EXAMPLES}
            assert recipe.suspects_tokens == tokens, name
            assert ("drift" in recipe.figures) == tokens, name
            assert {"before_after", "training"} <= set(recipe.figures), name


class TestCrossed:
    @pytest.mark.parametrize(
        ("recipe", "detector", "unlearner", "name"),
        [
            ("btu", None, None, "btu"),
            ("musclelora", None, None, "musclelora"),
            ("btu_calibrated", "token_drift", "ssd", "text__token_drift__ssd"),
            ("potion_text", "token_association", None, "text__token_association__trigger_search"),
            ("association", None, "retraining", "text__token_association__retraining"),
            ("btu", "discovered_share", "trigger_search", "potion_text"),
            ("potion", None, "ssd", "ssd"),
            ("ssd", None, "trigger_search", "potion"),
            ("text__token_drift__ssd", None, "assd", "text__token_drift__assd"),
        ],
    )
    def test_is_the_pair_with_what_the_recipe_has(self, recipe, detector, unlearner, name) -> None:
        assert crossed(recipe, detector, unlearner) == name
        made = ALL[name]
        assert detector in {None, made.detector}
        assert unlearner is None or made.unlearners == (unlearner,)
        assert made.modality == ALL[recipe].modality

    @pytest.mark.parametrize(
        ("recipe", "detector", "unlearner", "said"),
        [
            ("btu", "token_drfit", "ssd", "no detector 'token_drfit'; did you mean 'token_drift'"),
            ("btu", None, "sdd", "no unlearner 'sdd'; did you mean 'ssd'"),
            ("btu_calibrated", "token_drift", None, "several unlearners; give one besides"),
            ("musclelora", "token_drift", "ssd", "trains a model that resists"),
            ("potion", "token_drift", None, "token_drift is for texts, and potion is for images"),
            ("ubt", None, "cleanclip", "cleanclip needs no detector; run the recipe cleanclip"),
            ("ingest", None, "ssd", "those of a recipe, which ingest is not"),
        ],
    )
    def test_says_what_cannot_be(self, recipe, detector, unlearner, said) -> None:
        with pytest.raises(InputError, match=said):
            crossed(recipe, detector, unlearner)
