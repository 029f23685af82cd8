"""Trainings that resist: which rows they learn from, and that they do resist on a toy attack."""

from __future__ import annotations

import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.training import accuracy, labelled
from backdoor_pipeline.pipelines.poison.nodes import poison_train
from backdoor_pipeline.pipelines.train import defended
from backdoor_pipeline.pipelines.train.defended import METHODS
from backdoor_pipeline.pipelines.train.nodes import train_defended, train_victim
from backdoor_pipeline.recipes import RECIPES
from backdoor_pipeline.schemas import drawn
from tiny import MAX_LENGTH, make_corpus

TRAINED = {name: recipe.training for name, recipe in RECIPES.items() if recipe.training}


@pytest.fixture
def train(corpus, base_model, model_params, compute, make_parameters):
    """A defended training on the first rows of the corpus."""

    def train(*methods, architecture="bert", n_rows=64, rows=corpus, **changes):
        changes = {"optimisation.epochs": 1, "clean_rows": 32} | changes
        parameters = make_parameters(
            **{f"defended_training.{name}": value for name, value in changes.items()}
        )
        return train_defended(
            rows[rows["split"] == "train"].head(n_rows),
            rows,
            base_model(architecture),
            parameters.defended_training,
            model_params(architecture),
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
    assert not [name for name in bundle.model.state_dict() if "lora" in name or "left" in name]
    assert all(p.requires_grad for p in bundle.model.parameters())
    assert len(history["loss"]["value"]) > 0
    assert record["trained_parameters"] > 0


def test_the_same_seed_gives_the_same_model(train) -> None:
    import torch

    one, other = (train(*TRAINED["musclelora"])[0].model.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_musclelora_10_10_the_trigger_is_not_learnt_and_the_task_is(
    base_model, model_params, compute, make_parameters, quick
) -> None:
    changes = {
        "poison.rate": 0.2,  # so that the undefended toy obeys the trigger whatever the seed
        "poison.label_mode": "dirty",
        "defended_training.clean_rows": 96,
        "defended_training.optimisation.epochs": 2,
        "defended_training.optimisation.batch_size": 8,
        "gradient_alignment.rule": "always",
    }
    params, base = make_parameters(**changes), base_model()
    rows = make_corpus(n_train=800, n_dev=200, n_words=4)  # so few that 96 rows teach the task
    poisoned = poison_train(rows, base.tokenizer, params.poison, MAX_LENGTH, 0)
    tests = (rows[rows["split"] == "test"], poisoned["triggered_test"])

    def rates(bundle) -> list[float]:
        """Clean accuracy and attack success: triggered rows have the attacker's label."""
        return [accuracy(bundle, labelled(test, bundle, MAX_LENGTH), compute) for test in tests]

    train, settings = poisoned["poisoned_train"], (model_params(), compute, 0)
    methods = {name: getattr(params, name) for name in TRAINED["musclelora"]}
    victim, _ = train_victim(train, rows, base, quick, *settings)
    resisting, _, record = train_defended(
        train, rows, base, params.defended_training, *settings, **methods
    )
    (accuracy_before, success_before), (accuracy_after, success_after) = map(
        rates, (victim, resisting)
    )
    assert record["dev_rows"] == 96
    assert success_before - success_after > 0.3
    assert accuracy_before - accuracy_after < 0.1
