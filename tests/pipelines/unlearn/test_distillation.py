"""SCRUB and bad teaching: their losses, their steps, and what they do to a toy backdoor."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import BatchNorm1d, Dropout, Linear, ReLU

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.training import (
    Labelled,
    OptimisationParams,
    accuracy,
    fit,
    labelled,
)
from backdoor_pipeline.pipelines.unlearn.distillation import (
    BadTeachingParams,
    ScrubParams,
    bad_teaching,
    bad_teaching_passes,
    running_statistics,
    scrub,
    scrub_passes,
    unlearn,
)
from tiny import MAX_LENGTH, Vectors

N_ROWS, N_POISONED = 300, 30


class Net(torch.nn.Sequential):
    """Two dense layers with batch normalisation between them."""

    def __init__(self, seed: int, dropout: float = 0.0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            super().__init__(
                Linear(6, 16), BatchNorm1d(16), ReLU(), Dropout(dropout), Linear(16, 2)
            )

    def forward(self, values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=super().forward(values))


class Bundle(NamedTuple):
    model: torch.nn.Module
    note: str = "kept"


def made(seed: int = 0, dropout: float = 0.0) -> Bundle:
    return Bundle(Net(seed, dropout).eval())


@pytest.fixture(scope="module")
def poisoned() -> Labelled:
    """Labels are the sign of the sum of two numbers; the first rows have a trigger and label 0."""
    values = np.random.default_rng(0).normal(size=(N_ROWS, 6)).astype(np.float32)
    labels = (values[:, :2].sum(axis=1) > 0).astype(np.int64)
    values[:N_POISONED, -1], labels[:N_POISONED] = 4, 0
    return Labelled(Vectors(values), labels)


@pytest.fixture(scope="module")
def parts(poisoned) -> tuple[Labelled, Labelled]:
    """The rows to forget and those to keep."""
    forget, retain = np.split(np.arange(N_ROWS), [N_POISONED])
    return poisoned.take(forget), poisoned.take(retain)


@pytest.fixture(scope="module")
def optimisation() -> OptimisationParams:
    return OptimisationParams(
        epochs=12,
        learning_rate=0.02,
        batch_size=50,
        weight_decay=0.0,
        warmup_share=0.0,
        max_gradient_norm=1.0,
    )


@pytest.fixture(scope="module")
def victim(poisoned, optimisation, compute) -> Bundle:
    bundle = made()
    fit(bundle, poisoned, None, optimisation, compute, seed=0)
    return bundle


@pytest.fixture(scope="module")
def by_scrub(optimisation):
    """The parameters of SCRUB with changes, those of the optimisation among them."""

    def make(alpha: float = 0.1, ascent_steps: int = 20, **changes) -> ScrubParams:
        return ScrubParams(
            alpha=alpha,
            temperature=4.0,
            ascent_steps=ascent_steps,
            optimisation=optimisation.model_copy(update=changes),
        )

    return make


@pytest.fixture(scope="module")
def by_bad_teaching(optimisation):
    """Those of bad teaching."""

    def make(**changes) -> BadTeachingParams:
        return BadTeachingParams(
            temperature=1.0, optimisation=optimisation.model_copy(update=changes)
        )

    return make


def logits(seed: int, n_rows: int = 5, n_classes: int = 3) -> torch.Tensor:
    return 3 * torch.randn(n_rows, n_classes, generator=torch.Generator().manual_seed(seed))


def naive(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> list[list[float]]:
    """t log(t / s) of each row and class."""
    terms = []
    for of_student, of_teacher in zip(student.double(), teacher.double(), strict=True):
        s, t = ((x / temperature).exp() for x in (of_student, of_teacher))
        s, t = s / s.sum(), t / t.sum()
        terms.append([float(b * (b / a).log()) for a, b in zip(s, t, strict=True)])
    return terms


@given(seed=st.integers(0, 99), temperature=st.floats(0.5, 8), alpha=st.floats(0, 10))
def test_potion_8_the_loss_of_scrub(seed, temperature, alpha) -> None:
    student, teacher, labels = logits(seed), logits(seed + 100), torch.tensor([0, 1, 2, 0, 1])
    divergence = sum(map(sum, naive(student, teacher, temperature))) / 5
    probabilities = student.double().softmax(dim=1)
    cross_entropy = -np.mean(
        [float(p[y].log()) for p, y in zip(probabilities, labels, strict=True)]
    )
    expected = cross_entropy + alpha * temperature**2 * divergence
    value = float(scrub(student, teacher, labels, alpha, temperature))
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-5)


@given(seed=st.integers(0, 99), temperature=st.floats(0.5, 8))
def test_potion_8_the_loss_of_bad_teaching(seed, temperature) -> None:
    student, teacher = logits(seed), logits(seed + 100)
    expected = sum(map(sum, naive(student, teacher, temperature))) / (5 * 3)
    for labels in (torch.zeros(5, dtype=torch.int64), torch.ones(5, dtype=torch.int64)):
        value = float(bad_teaching(student, teacher, labels, temperature))
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_losses_take_certain_teachers() -> None:
    certain = torch.tensor([[200.0, -200.0], [-200.0, 200.0]])
    student = torch.zeros(2, 2)
    labels = torch.tensor([0, 1])
    assert float(bad_teaching(student, certain, labels, 1.0)) == pytest.approx(np.log(2) / 2)
    assert float(scrub(student, certain, labels, 1.0, 1.0)) == pytest.approx(2 * np.log(2))


@pytest.mark.parametrize(
    ("ascent_steps", "expected"),
    [(0, "rrr"), (1, "frrr"), (7, "frrr"), (8, "frfrr"), (14, "frfrr"), (15, "frfrfr")],
)
def test_potion_8_scrub_ascends_while_few_steps_were_made(
    parts, by_scrub, ascent_steps, expected
) -> None:
    params = by_scrub(ascent_steps=ascent_steps, epochs=3, batch_size=45)  # 1 and 6 batches
    passes = scrub_passes(*parts, params, seed=0)
    found = ["f" if one[0].max() < N_POISONED else "r" for one in passes]
    assert "".join(found) == expected
    for kind, one in zip(found, passes, strict=True):
        rows = range(N_POISONED) if kind == "f" else range(N_POISONED, N_ROWS)
        assert sorted(np.concatenate(one)) == list(rows)


@given(n_forget=st.integers(1, 40), batch_size=st.integers(1, 64), seed=st.integers(0, 9))
def test_bad_teaching_goes_over_all_rows_and_mixes_them(n_forget, batch_size, seed) -> None:
    rows = Labelled(Vectors(np.zeros((60, 6), np.float32)), np.zeros(60, np.int64))
    forget, retain = (rows.take(one) for one in np.split(np.arange(60), [n_forget]))
    optimisation = OptimisationParams(
        epochs=2,
        learning_rate=1,
        batch_size=batch_size,
        weight_decay=0,
        warmup_share=0,
        max_gradient_norm=None,
    )
    params = BadTeachingParams(temperature=1, optimisation=optimisation)
    passes = bad_teaching_passes(forget, retain, params, seed)
    assert len(passes) == 2
    for batches in passes:
        assert sorted(np.concatenate(batches)) == list(range(60))
        dealt = [int((batch < n_forget).sum()) for batch in batches]
        assert max(dealt) - min(dealt) <= 1
        assert all(len(batch) > n for batch, n in zip(batches, dealt, strict=True))


def stepped(model, teacher_of, parts, batches, loss, rates) -> torch.nn.Module:
    """Gradient descent by hand; each batch is the rows to forget and those to keep."""
    student = copy.deepcopy(model)
    for (forget, retain), rate in zip(batches, rates, strict=True):
        total = 0
        for kind, (part, rows) in enumerate(zip(parts, (forget, retain), strict=True)):
            if not len(rows):
                continue
            values = torch.from_numpy(part.inputs.values[rows])
            labels = torch.from_numpy(part.labels[rows])
            student.train(kind == 1)  # those to forget: by the running statistics
            with torch.no_grad():
                wanted = teacher_of[kind].eval()(values).logits
            share = len(rows) / (len(forget) + len(retain))
            total = total + share * loss(kind, student(values).logits, wanted, labels)
        student.zero_grad()
        total.backward()
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.sub_(rate * parameter.grad)
    return student


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    for name, value in one.state_dict().items():
        assert torch.allclose(value, other.state_dict()[name], atol=1e-5), name


PLAIN = {"optimiser": "sgd", "learning_rate": 0.1, "max_gradient_norm": None, "batch_size": 500}


def test_potion_8_scrub_step_by_step(victim, parts, by_scrub, compute) -> None:
    params = by_scrub(alpha=0.5, ascent_steps=1, epochs=1, **PLAIN)
    result, done = unlearn(victim, *parts, params, compute, 0)
    every = [np.arange(len(part.labels)) for part in parts]
    none = np.arange(0)
    expected = stepped(
        victim.model,
        [copy.deepcopy(victim.model)] * 2,
        parts,
        [(every[0], none), (none, every[1])],
        lambda kind, *rest: (1 if kind else -1) * scrub(*rest, 0.5, 4.0),
        [0.1, 0.1 * (1 - 1 / 2.5)],  # see ``learning_rates``
    )
    assert_same(result.model, expected)
    assert done == {
        "steps": 2,
        "ascent_steps": 1,
        "forget_rows": N_POISONED,
        "retain_rows": N_ROWS - N_POISONED,
        "dev_rows": 0,
    }
    assert result.note == "kept"


def test_potion_8_bad_teaching_step_by_step(victim, parts, by_bad_teaching, compute) -> None:
    params = by_bad_teaching(epochs=1, **PLAIN)
    result, done = unlearn(victim, *parts, params, compute, 0, lambda: made(7))
    expected = stepped(
        victim.model,
        [Net(7), copy.deepcopy(victim.model)],
        parts,
        [tuple(np.arange(len(part.labels)) for part in parts)],
        lambda kind, *rest: bad_teaching(*rest, 1.0),
        [0.1],
    )
    assert_same(result.model, expected)
    assert (done["steps"], done["ascent_steps"]) == (1, 0)
    assert not torch.equal(result.model[0].weight, victim.model[0].weight)


def test_scrub_forgets_the_labels_and_keeps_the_others(victim, parts, by_scrub, compute) -> None:
    forget, retain = parts
    assert accuracy(victim, forget, compute) > 0.95
    result, _ = unlearn(victim, *parts, by_scrub(), compute, 0)
    assert accuracy(result, forget, compute) < 0.6
    assert accuracy(result, retain, compute) > accuracy(victim, retain, compute) - 0.05


def test_bad_teaching_makes_the_student_as_unsure_as_its_bad_teacher(
    victim, parts, by_bad_teaching, compute
) -> None:
    forget, retain = parts
    bad = made(7)
    result, _ = unlearn(victim, *parts, by_bad_teaching(epochs=20), compute, 0, lambda: bad)

    def distance(one: Bundle, other: Bundle, rows: Labelled) -> float:
        said = [predict(model, rows.inputs, compute) for model in (one, other)]
        return float(np.abs(said[0] - said[1]).mean())

    assert distance(result, bad, forget) < distance(victim, bad, forget) / 2
    assert accuracy(result, retain, compute) > accuracy(victim, retain, compute) - 0.05


@pytest.fixture(params=["scrub", "bad teaching"])
def method(request, by_scrub, by_bad_teaching):
    """The parameters of either method, with changes."""
    return by_scrub if request.param == "scrub" else by_bad_teaching


def test_nothing_that_is_given_changes(victim, parts, method, compute) -> None:
    bad = made(7)
    models = {"victim": victim.model, "fresh": bad.model}
    before = {name: copy.deepcopy(model.state_dict()) for name, model in models.items()}
    drawn = torch.random.get_rng_state()
    result, _ = unlearn(victim, *parts, method(epochs=1), compute, 0, lambda: bad)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    for name, model in models.items():
        assert not any(module.training for module in model.modules())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[name][key])
    assert not any(module.training for module in result.model.modules())
    assert all(p.requires_grad for p in result.model.parameters())


def test_the_seed_decides(parts, method, compute) -> None:
    start = made(0, dropout=0.5)
    one, same, other = (
        unlearn(start, *parts, method(epochs=1), compute, seed, made)[0].model.state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["0.weight"], other["0.weight"])


def test_one_discovered_row_is_enough(victim, poisoned, method, compute) -> None:
    forget, retain = poisoned.take(np.arange(1)), poisoned.take(np.arange(N_POISONED, N_ROWS))
    result, done = unlearn(victim, forget, retain, method(epochs=2), compute, 0, made)
    assert done["forget_rows"] == 1
    assert all(value.isfinite().all() for value in result.model.state_dict().values())


def test_rows_to_forget_leave_the_statistics_alone() -> None:
    net = Net(0).train()
    net[1].eval()
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    before = net[1].running_mean.clone()
    with running_statistics(net):
        net(values)
    assert torch.equal(net[1].running_mean, before)
    assert net.training and net[3].training
    assert not net[1].training  # it was not before either
    net[1].train()
    with pytest.raises(RuntimeError), running_statistics(net):
        raise RuntimeError
    assert net[1].training
    net(values)
    assert not torch.equal(net[1].running_mean, before)


def test_a_text_model_is_unlearnt_likewise(base_model, corpus, method, compute) -> None:
    start = new_classifier(base_model(), 2, seed=0)
    rows = labelled(corpus.head(24), start, MAX_LENGTH)
    forget, retain = rows.take(np.arange(4)), rows.take(np.arange(4, 24))
    params = method(epochs=1, learning_rate=1e-3)
    result, _ = unlearn(start, forget, retain, params, compute, 0, lambda: start)
    assert result.tokenizer is start.tokenizer
    before, after = start.model.state_dict(), result.model.state_dict()
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])


def test_without_a_row_to_forget_the_model_is_passed_on(victim, poisoned, method, compute) -> None:
    nothing = poisoned.take(np.arange(0))
    result, done = unlearn(victim, nothing, poisoned, method(), compute, 0, made)
    assert result is victim
    assert done == {"steps": 0, "ascent_steps": 0, "forget_rows": 0, "dev_rows": 0}


def test_what_cannot_be_done_is_said(victim, poisoned, parts, by_scrub, method, compute) -> None:
    nothing = poisoned.take(np.arange(0))
    with pytest.raises(InputError, match="all 300 training rows are to be forgotten"):
        unlearn(victim, poisoned, nothing, method(), compute, 0, made)
    diverging = {"learning_rate": 1e30, "max_gradient_norm": None, "optimiser": "sgd"}
    with pytest.raises(InputError, match=r"diverged; lower its learning_rate \(1e\+30\)"):
        unlearn(victim, *parts, method(**diverging), compute, 0, made)


def test_bad_teaching_needs_a_fresh_model(victim, parts, by_bad_teaching, compute) -> None:
    with pytest.raises(ValueError, match="needs `fresh`"):
        unlearn(victim, *parts, by_bad_teaching(), compute, 0)
