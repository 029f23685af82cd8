"""Trainings that resist: which rows they learn from, and that they do resist on a toy attack."""

from __future__ import annotations

import pytest
import torch

from backdoor_pipeline.datasets.models import ClassifierDataset
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.pipelines.train import defended
from backdoor_pipeline.pipelines.train.defended import METHODS
from backdoor_pipeline.pipelines.train.nodes import train_defended
from backdoor_pipeline.recipes import RECIPES
from backdoor_pipeline.schemas import drawn

TRAINED = {name: recipe.training for name, recipe in RECIPES.items() if recipe.training}


@pytest.fixture
def train(corpus, base_model, model_params, compute, make_parameters):
    """A defended training on the first rows of the corpus, with room for a prefix."""

    def train(*methods, architecture="bert", n_rows=64, rows=corpus, max_length=24, **changes):
        changes = {"optimisation.epochs": 1, "clean_rows": 32} | changes
        parameters = make_parameters(
            **{f"defended_training.{name}": value for name, value in changes.items()}
        )
        return train_defended(
            rows[rows["split"] == "train"].head(n_rows),
            rows,
            base_model(architecture),
            parameters.defended_training,
            model_params(architecture).model_copy(update={"max_length": max_length}),
            compute,
            0,
            **{name: getattr(parameters, name) for name in methods},
        )

    return train


@pytest.fixture
def fitted(monkeypatch):
    """What the training loop was called with."""
    calls = []

    def fit(bundle, rows, dev, optimisation, compute, seed, what, align):
        calls.append({"rows": rows, "dev": dev, "optimisation": optimisation, "align": align})
        return {"loss": {"step": [], "value": []}}

    monkeypatch.setattr(defended, "fit", fit)
    return calls


def test_recipes_name_methods_that_there_are() -> None:
    assert {method for methods in TRAINED.values() for method in methods} == set(METHODS)


def test_musclelora_10_7_clean_rows_have_no_other_role(corpus) -> None:
    dev = corpus[corpus["split"] == "dev"]
    chosen, others = drawn(dev, 32, seed=0)
    assert len(chosen) == 32 and len(chosen) + len(others) == len(dev)
    assert not set(chosen["example_id"]) & set(others["example_id"])
    assert set(drawn(dev, 32, seed=1)[0]["example_id"]) != set(chosen["example_id"])


def test_more_clean_rows_than_there_are(train) -> None:
    with pytest.raises(InputError, match=r"clean_rows is 61, but the dev split has 60 rows"):
        train("low_rank", "clean_only", clean_rows=61)


def test_only_methods_that_need_clean_rows_use_any(train, fitted) -> None:
    for methods, select, used in (
        (("low_rank",), "last", 0),
        (("low_rank", "gradient_alignment"), "last", 32),
        (("low_rank", "clean_only"), "last", 32),
        (("low_rank",), "best", 60),
        (("low_rank", "gradient_alignment"), "best", 60),
    ):
        _, _, record = train(*methods, select=select, **{"optimisation.epochs": 2})
        assert record["dev_rows"] == used
    assert len(fitted[-1]["dev"].labels) == 60 - 32


def test_clean_only_learns_from_the_clean_rows_alone(train, fitted, make_parameters) -> None:
    train("low_rank", "clean_only")
    (call,) = fitted
    assert len(call["rows"].labels) == 32
    assert call["optimisation"].epochs == make_parameters().clean_only.epochs


def test_few_weights_learn_at_a_rate_of_their_own(train, fitted, make_parameters) -> None:
    train("gradient_alignment")
    train("low_rank")
    of_all, of_few = (call["optimisation"].learning_rate for call in fitted)
    parameters = make_parameters()
    assert of_all == parameters.defended_training.optimisation.learning_rate
    assert of_few == parameters.low_rank.learning_rate != of_all


@pytest.mark.parametrize("architecture", ["roberta", "gpt2", "llama"])
@pytest.mark.parametrize("recipe", TRAINED)
def test_every_recipe_trains_every_kind_of_model(train, architecture, recipe) -> None:
    bundle, history, record = train(*TRAINED[recipe], architecture=architecture)
    put_in = ("lora", "left", "peanut", "parametrizations")
    assert not [name for name in bundle.model.state_dict() if any(p in name for p in put_in)]
    assert all(p.requires_grad for p in bundle.model.parameters())
    assert len(history["loss"]["value"]) > 0
    assert record["trained_parameters"] > 0


@pytest.mark.parametrize("architecture", ["roberta", "gpt2"])
@pytest.mark.parametrize(
    "methods",
    [
        ("prefix", "radial_scaling", "gradient_alignment"),
        ("adapter", "radial_scaling", "gradient_alignment"),
        ("prefix", "moderate_fitting"),
        ("adapter", "moderate_fitting"),
    ],
    ids="-".join,
)
def test_methods_work_together(train, compute, corpus, tmp_path, architecture, methods) -> None:
    bundle, history, _ = train(*methods, architecture=architecture, select="best")
    assert len(history["loss"]["value"]) > 0
    dataset = ClassifierDataset(filepath=str(tmp_path / "model"))
    dataset.save(bundle)
    tokens = tokenise(corpus["text"].head(9), bundle.tokenizer, 24)
    saved = predict(dataset.load(), tokens, compute)
    assert saved == pytest.approx(predict(bundle, tokens, compute), abs=1e-6)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2", "llama"])
@pytest.mark.parametrize("recipe", ["lora", "adapter", "prefix", "moderate_fitting"])
def test_the_training_leaves_the_base_as_it_is(
    train, base_model, monkeypatch, architecture, recipe
) -> None:
    from backdoor_pipeline.modelling.prefixes import ordinary

    for module in defended.ADAPTATIONS.values():
        monkeypatch.setattr(module, "merge", lambda model, params: None)
    before = base_model(architecture).model.state_dict()
    bundle, _, record = train(*TRAINED[recipe], architecture=architecture)
    after = {
        name.replace(".base_layer", ""): value
        for name, value in ordinary(bundle.model).base_model.state_dict().items()
    }
    for name, value in before.items():
        if name in after:  # a RoBERTa classifier has no pooler
            turned = recipe == "adapter" and architecture == "gpt2" and "c_proj.weight" in name
            assert torch.equal(after[name].T if turned else after[name], value)
    assert record["trained_parameters"] < sum(value.numel() for value in before.values()) / 5


def test_a_prefix_without_room_is_told_before_the_training(train, fitted) -> None:
    with pytest.raises(InputError, match="beyond the 32 positions"):
        train("prefix", max_length=32)
    assert not fitted


def test_the_same_seed_gives_the_same_model(train) -> None:
    one, other = (train(*TRAINED["musclelora"])[0].model.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
