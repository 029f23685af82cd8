"""The training loop: it learns, it is deterministic, it chooses by dev accuracy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.objectives import cross_entropy
from backdoor_pipeline.modelling.text import Tokens, tokenise
from backdoor_pipeline.modelling.training import (
    Labelled,
    OptimisationParams,
    accuracy,
    epoch_batches,
    fit,
    learning_rates,
    new_optimiser,
)
from tiny import ARCHITECTURES, make_corpus
from train_in_processes import N_BATCHES

TWO_EPOCHS = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def splits(base_model):
    """Training and dev rows of a small corpus as tokens of an architecture's tokenizer."""

    def make(architecture: str = "bert", n_train: int = 90) -> tuple[Labelled, Labelled]:
        corpus = make_corpus(n_train=n_train, n_dev=30, n_test=0)
        tokenizer = base_model(architecture).tokenizer
        parts = (corpus[corpus["split"] == name] for name in ("train", "dev"))
        return tuple(
            Labelled(tokenise(rows["text"], tokenizer, 32), rows["label"].to_numpy())
            for rows in parts
        )

    return make


@pytest.fixture
def published() -> OptimisationParams:
    """Potion's, section 3 of its specification, but for the number of steps."""
    return OptimisationParams(
        epochs=1,
        learning_rate=0.025,
        batch_size=512,
        weight_decay=5e-4,
        warmup_share=0.01,
        max_gradient_norm=None,
        optimiser="sgd",
        momentum=0.9,
        decay_span=1.25,
    )


def weights(bundle) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in bundle.model.parameters()])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_learns(base_model, splits, compute, quick, architecture) -> None:
    bundle = new_classifier(base_model(architecture), 2, seed=0)
    params = quick.model_copy(update={"epochs": 10, "batch_size": 16})
    train, dev = splits(architecture)
    history = fit(bundle, train, None, params, compute, seed=0)
    losses = history["loss"]["value"]
    assert len(losses) == 10 * 6 == history["loss"]["step"][-1]
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.05
    assert accuracy(bundle, train, compute) > 0.7
    assert not bundle.model.training
    assert "dev_accuracy" not in history
    assert 0 <= accuracy(bundle, dev, compute) <= 1


def test_the_same_seed_gives_the_same_model(base_model, splits, compute, quick) -> None:
    import torch

    train, dev = splits("distilbert")  # it has dropout
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(results))  # the global generator plays no part
        bundle = new_classifier(base_model("distilbert"), 2, seed=0)
        state = torch.get_rng_state()
        history = fit(bundle, train, dev, quick, compute, seed)
        assert torch.equal(torch.get_rng_state(), state)
        results.append((weights(bundle), history))
    assert (results[0][0] == results[1][0]).all()
    assert results[0][1] == results[1][1]
    assert not (results[0][0] == results[2][0]).all()


def test_ends_with_the_earliest_of_the_best_epochs(
    base_model, splits, compute, quick, monkeypatch
) -> None:
    measured = iter([0.5, 0.9, 0.9, 0.7])
    seen = []

    def measure(bundle, data, compute):
        seen.append(weights(bundle))
        return next(measured)

    monkeypatch.setattr("backdoor_pipeline.modelling.training.accuracy", measure)
    bundle = new_classifier(base_model(), 2, seed=0)
    params = quick.model_copy(update=TWO_EPOCHS | {"epochs": 4})
    history = fit(bundle, *splits(), params, compute, seed=0)
    assert history["dev_accuracy"] == {"step": [6, 12, 18, 24], "value": [0.5, 0.9, 0.9, 0.7]}
    assert (weights(bundle) == seen[1]).all()
    assert not (seen[1] == seen[2]).all()


def test_only_what_requires_a_gradient_is_trained(base_model, splits, compute, quick) -> None:
    import torch

    bundle = new_classifier(base_model(), 2, seed=0)
    bundle.model.base_model.requires_grad_(False)
    fit(bundle, *splits(), quick, compute, seed=0)
    before = base_model().model.state_dict()
    after = bundle.model.base_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_objective_is_minimised_and_the_history_has_the_loss(
    base_model, splits, compute, quick
) -> None:
    train, _ = splits()
    params = quick.model_copy(update={"epochs": 10, "batch_size": 16})
    bundle = new_classifier(base_model(), 2, seed=0)
    climbing = lambda logits, labels: -cross_entropy(logits, labels)  # noqa: E731
    losses = fit(bundle, train, None, params, compute, 0, objective=climbing)["loss"]["value"]
    assert min(losses) > 0
    assert np.mean(losses[-6:]) > np.mean(losses[:6]) + 0.05


def test_bf16_learns_too(base_model, splits, quick) -> None:
    bundle = new_classifier(base_model(), 2, seed=0)
    compute = ComputeParams(device="cpu", precision="bf16")
    fit(bundle, *splits(), quick, compute, seed=0)
    assert np.isfinite(weights(bundle)).all()
    assert weights(bundle).dtype == np.float32


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 5), st.integers(0, 99))
def test_every_process_gets_as_many_batches(n_rows, batch_size, n_processes, seed) -> None:
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], rng.integers(1, 9, n_rows).cumsum()])
    params = OptimisationParams(
        epochs=2,
        learning_rate=1.0,
        batch_size=batch_size,
        weight_decay=0.0,
        warmup_share=0.0,
        max_gradient_norm=1.0,
    )
    tokens = Tokens(np.zeros(offsets[-1], dtype=np.int32), offsets)
    for epoch in epoch_batches(tokens, params, seed, n_processes):
        assert len(epoch) % n_processes == 0
        assert {row for batch in epoch for row in batch} == set(range(n_rows))
        assert len(epoch) < -(-n_rows // batch_size) + n_processes


@pytest.mark.distributed
@pytest.mark.parametrize("modality", ["text", "image"])
def test_two_processes_end_with_the_same_model(torchrun_results, modality) -> None:
    first, second = torchrun_results[modality]
    assert first["weights"] == second["weights"]
    assert first["history"]["dev_accuracy"] == second["history"]["dev_accuracy"]
    assert first["history"]["loss"] != second["history"]["loss"]


@pytest.mark.distributed
def test_two_processes_share_the_batches(torchrun_results) -> None:
    first, _ = torchrun_results["text"]
    steps = -(-N_BATCHES // 2)  # a batch for each process, at each of them
    assert first["history"]["dev_accuracy"]["step"] == [steps, 2 * steps]
    assert len(first["history"]["loss"]["value"]) == 2 * steps


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        *((0, 0.025 / 41), (39, 0.025 * 40 / 41)),
        *((40, 0.025), (41, 0.025 * (1 - 1 / 5000)), (4000, (1 - 0.99 / 1.25) * 0.025)),
    ],
)
def test_potion_13_10_the_learning_rate_rises_and_falls_as_published(step, rate, published) -> None:
    found = published.learning_rate * learning_rates(step, published, n_steps=4000)
    assert found == pytest.approx(rate, rel=1e-12)


def test_every_step_has_its_learning_rate(
    base_model, splits, compute, published, monkeypatch
) -> None:
    made, rates = [], []

    def new(*args):
        made.append(new_optimiser(*args))
        return made[0]

    monkeypatch.setattr("backdoor_pipeline.modelling.training.new_optimiser", new)
    params = published.model_copy(update={"epochs": 2, "batch_size": 16, "warmup_share": 0.25})
    bundle = new_classifier(base_model(), 2, seed=0)
    note = lambda _epoch: rates.append(made[0].param_groups[0]["lr"])  # noqa: E731
    fit(bundle, splits()[0], None, params, compute, seed=0, on_gradients=note)
    factors = [learning_rates(step, params, n_steps=12) for step in range(12)]
    assert rates == pytest.approx([0.025 * factor for factor in factors])
    assert np.argmax(rates) == 3


def test_a_training_that_diverges_says_so(base_model, splits, compute, quick) -> None:
    bundle = new_classifier(base_model(), 2, seed=0)
    train, _ = splits()
    reckless = quick.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(InputError, match=r"victim: the loss is nan .* lower its learning_rate"):
        fit(bundle, train, None, reckless, compute, seed=0, what="victim")
