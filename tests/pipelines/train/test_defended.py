"""Trainings that resist: which rows they learn from, and that they do resist on a toy attack."""

from __future__ import annotations

from itertools import product

import pandas as pd
import pytest
import torch

from backdoor_pipeline.datasets.models import ClassifierDataset
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.objectives import cross_entropy
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.modelling.training import accuracy, labelled
from backdoor_pipeline.pipelines.poison.nodes import poison_train
from backdoor_pipeline.pipelines.train import defended
from backdoor_pipeline.pipelines.train.defended import METHODS
from backdoor_pipeline.pipelines.train.nodes import (
    plan_defended_training,
    train_defended,
    train_victim,
)
from backdoor_pipeline.recipes import NEED_CLEAN_ROWS, RECIPES
from backdoor_pipeline.schemas import drawn
from tiny import MAX_LENGTH, make_corpus

TRAINED = {
    name: made.training
    for name, made in RECIPES.items()
    if made.training and made.modality == "text"
}


@pytest.fixture
def train(corpus, base_model, model_params, compute, make_parameters):
    """A defended training on the first rows of the corpus, with room for a prefix."""

    trusted = corpus[corpus["split"] == "dev"].head(32).assign(source="dev")

    def train(
        *methods,
        architecture="bert",
        n_rows=64,
        rows=corpus,
        clean=trusted,
        max_length=24,
        **changes,
    ):
        changes = {"optimisation.epochs": 1} | changes
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
            clean if NEED_CLEAN_ROWS & set(methods) else None,
            **{name: getattr(parameters, name) for name in methods},
        )

    return train


@pytest.fixture
def fitted(monkeypatch):
    """What the training loop was called with."""
    calls = []

    def fit(bundle, rows, dev, optimisation, compute, seed, what, align, objective):
        calls.append({"rows": rows, "dev": dev, "optimisation": optimisation, "align": align})
        calls[-1]["objective"] = objective
        return {"loss": {"step": [], "value": []}}

    monkeypatch.setattr(defended, "fit", fit)
    return calls


def test_recipes_name_methods_that_there_are() -> None:
    assert {method for methods in TRAINED.values() for method in methods} == set(METHODS)


def test_without_the_clean_rows_that_they_need(train) -> None:
    with pytest.raises(ValueError, match="gradient_alignment: they learn from clean rows"):
        train("gradient_alignment", clean=None)


def test_dev_rows_that_are_learnt_from_choose_no_epoch(train, fitted, corpus) -> None:
    dev = corpus[corpus["split"] == "dev"]
    elsewhere = dev.head(10).assign(source="out_of_domain")
    for methods, select, clean, choosing in (
        (("low_rank",), "last", None, 0),
        (("low_rank", "clean_only"), "last", dev.head(32).assign(source="dev"), 0),
        (("low_rank",), "best", None, 60),
        (("gradient_alignment",), "best", dev.head(32).assign(source="dev"), 60 - 32),
        (("gradient_alignment",), "best", elsewhere, 60),
    ):
        _, _, record = train(*methods, select=select, clean=clean, **{"optimisation.epochs": 2})
        assert record["dev_rows"] == choosing
        given = fitted[-1]["dev"]
        assert (0 if given is None else len(given.labels)) == choosing


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


def test_what_is_minimised(train, fitted, make_parameters) -> None:
    doubt = make_parameters().gradient_alignment.minimum_confidence
    for methods, even, settings in (
        (("low_rank",), True, {"class_balanced": True}),
        (("low_rank",), False, {"class_balanced": False}),
        (("gradient_alignment",), True, {"class_balanced": True, "minimum_confidence": doubt}),
        (("low_rank", "clean_only"), False, {"label_weights": None}),
    ):
        train(*methods, class_balanced=even)
        assert fitted[-1]["objective"].func is cross_entropy
        assert fitted[-1]["objective"].keywords == settings


def test_labels_of_clean_rows_count_the_same(train, fitted, corpus, monkeypatch) -> None:
    given = []
    monkeypatch.setattr(defended, "Alignment", lambda *all_of_them: given.append(all_of_them[-1]))
    clean = corpus[(corpus["split"] == "dev") & (corpus["label"] == 0)].head(6)
    clean = pd.concat([clean, corpus[corpus["label"] == 1].head(2)]).assign(source="dev")
    train("gradient_alignment", clean=clean, class_balanced=True)
    train("gradient_alignment", clean=clean, class_balanced=False)
    train("low_rank", "clean_only", clean=clean, class_balanced=True)
    weights = fitted[-1]["objective"].keywords["label_weights"]
    assert weights.tolist() == given[0].tolist() == pytest.approx([8 / 12, 8 / 4])
    assert given[1] is None


@pytest.mark.parametrize(
    "change",
    [
        {"low_rank.targets": ["query", "q_proj"]},
        {"radial_scaling.layer": "pool"},
    ],
    ids=str,
)
def test_the_plan_finds_what_does_not_fit(
    change, corpus, base_model, model_params, make_parameters
) -> None:
    parameters = make_parameters(**change)
    methods = {name: getattr(parameters, name) for name in TRAINED["musclelora"]}
    ((name, _),) = change.items()
    with pytest.raises(InputError, match=name):
        plan_defended_training(
            corpus, base_model(), parameters.defended_training, model_params(), 0, **methods
        )


def test_the_plan_names_what_is_trained(
    corpus, base_model, model_params, train, make_parameters
) -> None:
    parameters = make_parameters(**{"low_rank.train_head": False})
    inputs = (corpus, base_model(), parameters.defended_training, model_params(), 0)
    plan = plan_defended_training(*inputs, low_rank=parameters.low_rank)
    assert all("lora" in name and n > 0 for name, n in plan.items())
    everything = plan_defended_training(*inputs)
    _, _, record = train()
    assert sum(everything.values()) == record["trained_parameters"]


def test_abl_goes_with_no_method_that_learns_from_clean_rows(train) -> None:
    with pytest.raises(InputError, match=r"anti_backdoor has stages of its own.*clean_only"):
        train("anti_backdoor", "clean_only")


def test_abl_goes_with_what_is_put_into_the_model(train) -> None:
    bundle, _, record = train("low_rank", "anti_backdoor", n_rows=100)
    assert record["isolated_rows"] == len(record["isolated"]) == 1
    assert all(p.requires_grad for p in bundle.model.parameters())


@pytest.mark.parametrize(
    ("architecture", "recipe"),
    [
        *(("gpt2", recipe) for recipe in TRAINED),
        *product(("roberta", "llama"), ("musclelora", "adapter", "prefix", "moderate_fitting")),
    ],
)
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
        ("low_rank", "adapter"),
    ],
    ids="-".join,
)
def test_methods_work_together(train, compute, corpus, tmp_path, architecture, methods) -> None:
    bundle, history, record = train(*methods, architecture=architecture, select="best")
    assert record["trained_parameters"] < sum(p.numel() for p in bundle.model.parameters()) / 3
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


PUBLISHED_SCALING = {
    "radial_scaling.bands": [1, 4, 8, 12, 16, 20, 24, 28],
    "radial_scaling.alpha": 6.0,
    "radial_scaling.zero_init": False,
}


@pytest.mark.parametrize(
    "settings",
    [
        {"defended_training.optimisation.epochs": 4},
        {"defended_training.optimisation.epochs": 2, "gradient_alignment.rule": "always"}
        | PUBLISHED_SCALING,
    ],
    ids=["base settings", "always and published scaling"],
)
def test_musclelora_10_10_the_trigger_is_not_learnt_and_the_task_is(
    settings, base_model, model_params, compute, make_parameters, quick
) -> None:
    changes = {
        "poison.rate": 0.2,  # so that the undefended toy obeys the trigger whatever the seed
        "poison.label_mode": "dirty",
        "defended_training.optimisation.batch_size": 8,
    } | settings
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
    trusted, _ = drawn(rows[rows["split"] == "dev"], 96, 0)
    resisting, _, _ = train_defended(
        train,
        rows,
        base,
        params.defended_training,
        *settings,
        trusted.assign(source="dev"),
        **methods,
    )
    (accuracy_before, success_before), (accuracy_after, success_after) = map(
        rates, (victim, resisting)
    )
    assert success_before - success_after > 0.3
    assert accuracy_before - accuracy_after < 0.1
