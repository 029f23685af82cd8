"""What every method keeps to, whichever it is: a new one is tested here by being registered."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from backdoor_pipeline import recipes
from backdoor_pipeline.datasets.models import ClassifierDataset
from backdoor_pipeline.modelling.loading import load_classifier, new_classifier
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.parameters import Parameters
from backdoor_pipeline.pipeline_registry import create_recipe
from backdoor_pipeline.pipelines.detect.nodes import DETECTORS
from backdoor_pipeline.pipelines.train.defended import METHODS
from backdoor_pipeline.pipelines.train.nodes import train_defended
from backdoor_pipeline.pipelines.unlearn.nodes import UNLEARNERS
from backdoor_pipeline.recipes import ALL, NEED_CLEAN_ROWS, RECIPES, WORK_ON
from backdoor_pipeline.schemas import SUSPECTS
from tiny import ROOT, make_corpus

STAGE_OF = {
    **dict.fromkeys(DETECTORS, "detect"),
    **dict.fromkeys(UNLEARNERS, "unlearn"),
    **dict.fromkeys(METHODS, "train"),
}
OF_TEXTS = {name: made for name, made in DETECTORS.items() if name in WORK_ON["text"]}
"""The detectors; those of pairs: ``tests/pipelines/unlearn/test_unlearn_pairs.py``."""

AT_WORK = {"fine_tune.rows": 20, "trigger_search.rho": 1.0, "trigger_search.start": "published"}
"""Settings under which every unlearner has something to do."""


@pytest.fixture(scope="module")
def data():
    """A small corpus with enough dev rows for all."""
    return make_corpus(n_train=200, n_dev=240, n_test=0)


@pytest.fixture(scope="module")
def there(data, base_model, model_params, compute, make_parameters):
    """What nodes may read, by its name in the catalog; a fifth of the rows bears "cf"."""
    parameters = make_parameters(**AT_WORK)
    training = data[data["split"] == "train"]
    bad = training.index % 5 == 0
    poisoned = training.assign(
        text=training["text"].where(~bad, "cf " + training["text"]),
        label=training["label"].where(~bad, 1),
    )
    groups = {f"params:{name}": getattr(parameters, name) for name in Parameters.model_fields}
    settings = {"params:model": model_params(), "params:compute": compute, "params:seed": 0}
    tables = {"examples": data, "poisoned_train": poisoned, "base_model": base_model()}
    index = poisoned.loc[bad, ["example_id"]].assign(trigger="cf")
    return groups | settings | tables | {"poison_index": index}


@pytest.fixture(scope="module")
def found(there):
    """Suspects and record of every detector; what one finds, the next may read."""
    results, so_far = {}, dict(there)
    for name, detector in OF_TEXTS.items():
        results[name] = detector.function(*(so_far[read] for read in detector.inputs))
        so_far[f"{name}_suspects"] = results[name][0]
    return results


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", OF_TEXTS)
def test_a_detector_returns_finite_scores_in_the_form_of_suspects(name, found) -> None:
    suspects, record = found[name]
    assert len(SUSPECTS.validate(suspects)) > 0
    assert np.isfinite(suspects["score"]).all()
    assert record["dev_rows"] >= 0


@pytest.fixture
def victim(there):
    """A classifier as if it had learnt "cf" and leant to the target."""
    bundle = new_classifier(there["base_model"], 2, seed=0)
    with torch.no_grad():
        for key in trigger_tokens(bundle.tokenizer):
            bundle.model.get_input_embeddings().weight[key] += 1.0
        bundle.model.classifier.bias[1] += 1.0
    return bundle


def trigger_tokens(tokenizer) -> list[int]:
    return tokenizer("cf", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("unlearner", sorted(UNLEARNERS.keys() & WORK_ON["text"]))
@pytest.mark.parametrize("detector", OF_TEXTS)
def test_any_unlearner_acts_on_the_suspects_of_any_detector(
    detector, unlearner, there, found, victim
) -> None:
    before, learning = weights(victim.model), [p.requires_grad for p in victim.model.parameters()]
    suspects, _ = found[detector]
    if "token" in set(suspects["kind"]):  # whatever a detector of tokens makes of a tiny model
        flagged = suspects["key"].isin(trigger_tokens(victim.tokenizer))
        suspects = suspects.assign(flagged=flagged)
    assert suspects["flagged"].any()
    tables = there | {"suspects": suspects}
    method = UNLEARNERS[unlearner]
    read = (*method.inputs, *(["base_model"] if method.from_base else []))
    purified, record = method.function(victim, *(tables[name] for name in read))
    assert same(weights(victim.model), before)
    assert [p.requires_grad for p in victim.model.parameters()] == learning
    assert record["dev_rows"] >= 0
    assert not same(weights(purified.model), before)


@pytest.mark.parametrize("name", ALL)
def test_every_pair_of_detector_and_unlearner_is_a_pipeline(name) -> None:
    recipe, pipeline = ALL[name], create_recipe(name)
    nodes = {node.name.rpartition(".")[2] for node in pipeline.nodes}
    assert {f"unlearn_by_{unlearner}" for unlearner in recipe.unlearners} <= nodes
    assert {f"{detector}_suspects" for detector in recipe.detectors} <= pipeline.all_outputs()
    assert f"{name}.metrics" in pipeline.outputs() | pipeline.all_outputs()


def test_what_can_be_crossed_is_what_there_is() -> None:
    pairs = {(made.modality, made.detector, *made.unlearners) for made in ALL.values()}
    assert set(recipes.DETECTORS) == set(DETECTORS)
    assert set(recipes.UNLEARNERS) == set(UNLEARNERS)
    fitting = {
        (modality, d, u)
        for modality, methods in WORK_ON.items()
        for d in DETECTORS
        for u in UNLEARNERS
        if {d, u} <= methods
    }
    assert fitting <= pairs
    crossable = {*DETECTORS, *UNLEARNERS} - recipes.OF_CLEAN_PAIRS
    assert crossable == set().union(*WORK_ON.values())


@pytest.fixture(scope="module")
def train(there, make_parameters):
    """Trains on a few rows by the smallest recipe that has the method."""

    def train(method, seed=0):
        recipes = [recipe.training for recipe in RECIPES.values() if method in recipe.training]
        methods = min(recipes, key=len)
        params = make_parameters(**{"defended_training.optimisation.epochs": 1})
        clean = there["examples"].query("split == 'dev'").head(16).assign(source="dev")
        return train_defended(
            there["poisoned_train"].head(64),
            there["examples"],
            there["base_model"],
            params.defended_training,
            there["params:model"].model_copy(update={"max_length": 24}),  # room for a prefix
            there["params:compute"],
            seed,
            clean if NEED_CLEAN_ROWS & set(methods) else None,
            **{name: there[f"params:{name}"] for name in methods},
        )

    return train


@pytest.mark.parametrize("method", METHODS)
def test_a_training_leaves_the_base_model_and_gives_the_same_again(method, train, there) -> None:
    before = weights(there["base_model"].model)
    (one, *told), (again, *told_again), (other, *_) = (train(method, seed) for seed in (3, 3, 4))
    assert same(weights(there["base_model"].model), before)
    assert same(weights(one.model), weights(again.model))
    assert told == told_again
    assert not same(weights(one.model), weights(other.model))


@pytest.mark.parametrize("method", METHODS)
def test_a_training_gives_a_safe_model_folder(method, train, data, compute, tmp_path) -> None:
    bundle, *_ = train(method)
    folder = tmp_path / "model"
    ClassifierDataset(filepath=str(folder)).save(bundle)
    tokens = tokenise(data["text"].head(20), bundle.tokenizer, 24)
    loaded = load_classifier(folder)
    assert (predict(loaded, tokens, compute) == predict(bundle, tokens, compute)).all()
    files = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert files <= {".safetensors", ".json", ".txt", ".md"}
    assert set(loaded.model.state_dict()) == set(bundle.model.state_dict())


@pytest.mark.parametrize("name", STAGE_OF)
def test_a_method_has_a_parameter_group_and_a_row_in_the_readme_of_its_stage(name) -> None:
    assert name in Parameters.model_fields
    readme = ROOT / "src" / "backdoor_pipeline" / "pipelines" / STAGE_OF[name] / "README.md"
    assert re.search(rf"^\|.*`(\w+_)?{name}`", readme.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_named_in_the_readme(name) -> None:
    assert f"`{name}`" in (ROOT / "README.md").read_text(encoding="utf-8")
