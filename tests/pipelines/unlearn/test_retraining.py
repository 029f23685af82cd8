"""Training again: what changes and what does not, and whether the backdoor goes."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.training import Labelled, OptimisationParams, fit, labelled
from backdoor_pipeline.pipelines.unlearn.retraining import (
    RetrainingParams,
    last_layers,
    unlearn,
)
from tiny import MAX_LENGTH, Vectors

N_ROWS, N_POISONED = 600, 60
LAYERS = {"0": 3, "3": 2, "6": 1}  # name of a layer in ``Net``: its place from the end


class Net(torch.nn.Sequential):
    """Three dense layers, with batch normalisation after the first two."""

    def __init__(self, seed: int) -> None:
        from torch.nn import BatchNorm1d, Linear, ReLU

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            super().__init__(
                *(Linear(6, 16), BatchNorm1d(16), ReLU()),
                *(Linear(16, 16), BatchNorm1d(16), ReLU()),
                Linear(16, 2),
            )

    def forward(self, values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=super().forward(values))


class Bundle(NamedTuple):
    model: torch.nn.Module
    note: str = "kept"


def made(seed: int = 0) -> Bundle:
    return Bundle(Net(seed).eval())


def triggered(values: np.ndarray) -> np.ndarray:
    """The last number, which says nothing of the label, is made large."""
    values = values.copy()
    values[:, -1] = 4
    return values


@pytest.fixture(scope="module")
def clean() -> Labelled:
    """Labels are the sign of the sum of two numbers."""
    values = np.random.default_rng(0).normal(size=(N_ROWS, 6)).astype(np.float32)
    return Labelled(Vectors(values), (values[:, :2].sum(axis=1) > 0).astype(np.int64))


@pytest.fixture(scope="module")
def poisoned(clean) -> Labelled:
    """The same, the first with a trigger and label 0."""
    values, labels = clean.inputs.values.copy(), clean.labels.copy()
    values[:N_POISONED], labels[:N_POISONED] = triggered(values[:N_POISONED]), 0
    return Labelled(Vectors(values), labels)


@pytest.fixture(scope="module")
def optimisation() -> OptimisationParams:
    return OptimisationParams(
        epochs=12,
        learning_rate=0.02,
        batch_size=50,
        weight_decay=0.0,
        warmup_share=0.1,
        max_gradient_norm=1.0,
    )


@pytest.fixture(scope="module")
def victim(poisoned, optimisation, compute) -> Bundle:
    bundle = made()
    fit(bundle, poisoned, None, optimisation, compute, seed=0)
    return bundle


@pytest.fixture
def rates(clean, compute):
    """Clean accuracy and attack success of a model, on rows that are not triggered in training."""

    def measure(bundle: Bundle) -> tuple[float, float]:
        rows = clean.take(np.arange(N_POISONED, N_ROWS))
        correct = predict(bundle, rows.inputs, compute).argmax(axis=1) == rows.labels
        others = rows.take(np.flatnonzero(rows.labels == 1))
        bad = Vectors(triggered(others.inputs.values))
        fooled = predict(bundle, bad, compute).argmax(axis=1) == 0
        return correct.mean(), fooled.mean()

    return measure


@pytest.fixture
def again(victim, poisoned, optimisation, compute):
    """``unlearn`` where the first rows are known to be poisoned."""

    def run(fresh_weights: bool, last: int | None = None, known: int = N_POISONED, **changes):
        params = RetrainingParams(
            fresh_weights=fresh_weights,
            last_layers=last,
            optimisation=optimisation.model_copy(update=changes),
        )
        forget, retain = (poisoned.take(rows) for rows in np.split(np.arange(N_ROWS), [known]))
        drawn = (lambda: made(1)) if fresh_weights else None
        return unlearn(victim, forget, retain, params, compute, 0, drawn)

    return run


@pytest.mark.parametrize("fresh_weights", [True, False], ids=["eu", "cf"])
def test_potion_8_without_the_poison_the_backdoor_goes(victim, again, rates, fresh_weights) -> None:
    accuracy, success = rates(victim)
    assert accuracy > 0.9 and success > 0.9
    result, done = again(fresh_weights)
    accuracy, success = rates(result)
    assert accuracy > 0.9 and success < 0.3
    n_steps = 12 * -(-(N_ROWS - N_POISONED) // 50)
    assert done == {
        "steps": n_steps,
        "trained_parameters": sum(p.numel() for p in victim.model.parameters()),
        "forget_rows": N_POISONED,
        "retain_rows": N_ROWS - N_POISONED,
        "dev_rows": 0,
    }
    assert result.note == "kept"


@pytest.mark.parametrize("fresh_weights", [True, False], ids=["eu", "cf"])
def test_potion_13_11_poison_that_was_not_discovered_teaches_it_again(
    again, rates, fresh_weights
) -> None:
    result, _ = again(fresh_weights, known=N_POISONED // 5)
    accuracy, success = rates(result)
    assert accuracy > 0.9 and success > 0.5


@pytest.mark.parametrize("fresh_weights", [True, False], ids=["eu", "cf"])
@pytest.mark.parametrize("last", [1, 2, 3, None])
def test_potion_8_only_the_last_layers_change(victim, again, fresh_weights, last) -> None:
    before = copy.deepcopy(victim.model.state_dict())
    result, done = again(fresh_weights, last, epochs=2)
    after = result.model.state_dict()
    trained = 0
    for name in before:
        layer = str(int(name[0]) // 3 * 3)  # normalisation goes with the layer before it
        is_trained = last is None or LAYERS[layer] <= last
        if "num_batches" not in name:
            assert torch.equal(before[name], after[name]) != is_trained, name
        if name.endswith(("weight", "bias")):
            trained += before[name].numel() * is_trained
        assert torch.equal(before[name], victim.model.state_dict()[name])
    assert done["trained_parameters"] == trained
    assert all(p.requires_grad for p in result.model.parameters())
    assert not any(module.training for module in result.model.modules())


def test_eu_starts_from_the_fresh_weights_of_the_layers_it_trains(again) -> None:
    start = Net(1).state_dict()
    result, _ = again(True, last=2, epochs=1, learning_rate=1e-12)
    after = result.model.state_dict()
    for name in ("3.weight", "3.bias", "4.weight", "6.weight", "6.bias"):
        assert torch.allclose(after[name], start[name], atol=1e-6)
    assert not torch.allclose(after["0.weight"], start["0.weight"], atol=0.01)


def test_of_all_layers_nothing_of_the_victim_is_left(again, poisoned, optimisation, compute):
    """EU is an ordinary training of a fresh model on the other rows."""
    result, _ = again(True)
    expected = made(1)
    rest = poisoned.take(np.arange(N_POISONED, N_ROWS))
    fit(expected, rest, None, optimisation, compute, seed=0)
    for name, value in expected.model.state_dict().items():
        assert torch.equal(value, result.model.state_dict()[name])


def test_the_fresh_model_is_left_as_it_was(victim, poisoned, optimisation, compute) -> None:
    shared = made(1)
    params = RetrainingParams(fresh_weights=True, last_layers=None, optimisation=optimisation)
    unlearn(victim, poisoned, poisoned, params, compute, 0, lambda: shared)
    for name, value in Net(1).state_dict().items():
        assert torch.equal(value, shared.model.state_dict()[name])


@pytest.mark.parametrize("fresh_weights", [True, False], ids=["eu", "cf"])
def test_a_text_model_keeps_its_encoder(base_model, corpus, quick, compute, fresh_weights) -> None:
    victim = new_classifier(base_model(), 2, seed=0)
    rows = labelled(corpus.head(40), victim, MAX_LENGTH)
    params = RetrainingParams(
        fresh_weights=fresh_weights,
        last_layers=2,
        optimisation=quick.model_copy(update={"epochs": 1}),
    )
    drawn = new_classifier(base_model(), 2, seed=1)
    forget, retain = rows.take(np.arange(4)), rows.take(np.arange(4, 40))
    result, _ = unlearn(victim, forget, retain, params, compute, 0, lambda: drawn)
    before, after = victim.model.state_dict(), result.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    names = {
        f"{layer}.{kind}"
        for layer in ("classifier", "bert.pooler.dense")
        for kind in ("weight", "bias")
    }
    assert changed == names
    assert result.tokenizer is victim.tokenizer


def test_layers_are_counted_by_their_weights() -> None:
    net = Net(0)
    assert last_layers(net, 1) == {"6"}
    assert last_layers(net, 2) == {"3", "4", "5", "6"}
    assert last_layers(net, 3) == {str(n) for n in range(7)}
    assert last_layers(net, None) == {"", *(str(n) for n in range(7))}
    with pytest.raises(InputError, match="last_layers is 4, but the model has 3 layers"):
        last_layers(net, 4)


def test_the_same_seed_gives_the_same_model(again) -> None:
    one, same = (again(False, epochs=1)[0].model.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], same[name]) for name in one)


def test_without_a_row_to_forget_the_model_is_passed_on(again, victim) -> None:
    result, done = again(True, known=0)
    assert result is victim
    assert done == {"steps": 0, "trained_parameters": 0, "forget_rows": 0, "dev_rows": 0}


def test_what_cannot_be_done_is_said(victim, poisoned, optimisation, compute) -> None:
    params = RetrainingParams(fresh_weights=True, last_layers=None, optimisation=optimisation)
    nothing = poisoned.take(np.arange(0))
    with pytest.raises(InputError, match=r"all 600 training rows are to be forgotten.*flag fewer"):
        unlearn(victim, poisoned, nothing, params, compute, 0, made)
    with pytest.raises(ValueError, match="needs `fresh`"):
        unlearn(victim, poisoned, poisoned, params, compute, 0)
    other = Bundle(torch.nn.Linear(6, 2))
    with pytest.raises(ValueError, match="another architecture"):
        unlearn(victim, poisoned, poisoned, params, compute, 0, lambda: other)
