"""The search against its definition, its end, and a backdoor that it removes."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.bundle import ImageBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.networks.resnet9 import (
    ResNet9Config,
    ResNet9ForImageClassification,
)
from backdoor_pipeline.modelling.pixels import Pixels, measured_format
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.training import Labelled, OptimisationParams, accuracy, fit
from backdoor_pipeline.pipelines.unlearn import dampening, importances, trigger_search
from backdoor_pipeline.pipelines.unlearn.dampening import Ranking
from backdoor_pipeline.pipelines.unlearn.importances import ImportanceParams
from backdoor_pipeline.pipelines.unlearn.trigger_search import (
    TriggerSearchParams,
    search,
    unlearn,
)

CPU = ComputeParams(device="cpu", precision="fp32")
REPAIR = {
    **{"optimiser": "sgd", "momentum": 0.9, "decay_span": 1.0, "epochs": 1, "batch_size": 32},
    **{"learning_rate": 2e-3, "weight_decay": 0.0, "warmup_share": 0.0, "max_gradient_norm": None},
    "last_layers": None,
}
N_CLASSES = 4
SIZE = 12  # pixels of a side


def params(rho: float = 0.2, **changes: Any) -> TriggerSearchParams:
    importances = {
        **{"quantity": "xlf", "estimator": "per_sample", "batch_size": 64, "rows": 200},
        **{"chunk": 32, **changes.pop("importances", {})},
    }
    base = {"start": "one_sample", "growth": 1.1, "max_steps": 500}
    base |= {"lowering": False, "criterion": "accuracy", "max_loss": None, "max_label_loss": None}
    base |= {"balanced": False, "repair": None}
    return TriggerSearchParams(
        importances=ImportanceParams(**importances), rho=rho, **(base | changes)
    )


def images(n_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy copies of one coarse pattern per label, none of them fully white."""
    rng = np.random.default_rng(0)
    patterns = rng.uniform(30, 226, (N_CLASSES, 4, 4)).repeat(3, axis=1).repeat(3, axis=2)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, N_CLASSES, n_rows)
    noisy = patterns[labels] + rng.normal(0, 70, (n_rows, SIZE, SIZE))
    return noisy.clip(0, 240).astype(np.uint8)[..., None], labels


def patched(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[:, -3:, -3:] = 255
    return values


class Case(NamedTuple):
    """A model trained on poisoned images, the numbers of the poisoned ones, and a test set."""

    victim: ImageBundle
    train: Labelled
    poison: np.ndarray
    test: Labelled

    def split(self, n_discovered: int) -> tuple[Labelled, Labelled]:
        discovered = self.poison[:n_discovered]
        rest = np.setdiff1d(np.arange(len(self.train.labels)), discovered)
        return self.train.take(discovered), self.train.take(rest)

    def attack_success(self, bundle: ImageBundle) -> float:
        others = self.test.take(np.flatnonzero(self.test.labels != 0))
        pixels = Pixels(patched(others.inputs.values), others.inputs.format)
        return float((predict(bundle, pixels, CPU).argmax(axis=1) == 0).mean())


@pytest.fixture(scope="module")
def case() -> Case:
    values, labels = images(800, seed=1)
    test_values, test_labels = images(300, seed=2)
    rng = np.random.default_rng(1)
    poison = rng.permutation(np.flatnonzero(labels != 0))[:60]
    values[poison], labels[poison] = patched(values[poison]), 0
    form = measured_format(values)
    config = ResNet9Config(num_channels=1, width=1 / 8, num_labels=N_CLASSES)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        victim = ImageBundle(ResNet9ForImageClassification(config), form)
    train = Labelled(Pixels(values, form), labels)
    optimisation = OptimisationParams(
        epochs=4,
        learning_rate=4e-3,
        batch_size=32,
        weight_decay=0.0,
        warmup_share=0.1,
        max_gradient_norm=1.0,
    )
    fit(victim, train, None, optimisation, CPU, seed=1)
    return Case(victim, train, poison, Labelled(Pixels(test_values, form), test_labels))


class Favours(torch.nn.Module):
    """A linear model of images whose logit of label 0 nothing lowers."""

    def __init__(self, lead: float) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.dense = torch.nn.Linear(SIZE * SIZE, N_CLASSES, bias=False)
        self.register_buffer("lead", torch.tensor([lead] + [0.0] * (N_CLASSES - 1)))

    def forward(self, pixel_values):
        logits = self.dense(pixel_values.flatten(start_dim=1))
        return SimpleNamespace(logits=logits + self.lead)


def certain(model: torch.nn.Module, n_rows: int = 30) -> tuple[ImageBundle, Labelled]:
    """The model, and rows with the labels that it predicts."""
    values, _ = images(n_rows, seed=3)
    form = measured_format(values)
    bundle = ImageBundle(model, form)
    labels = predict(bundle, Pixels(values, form), CPU).argmax(axis=1)
    return bundle, Labelled(Pixels(values, form), labels)


def naive(model, forget: Labelled, every: torch.Tensor, share: float, asked) -> tuple[list, Any]:
    """Each try from the original weights, with a percentile computed anew."""
    form, exact = forget.inputs.format, every.double().numpy()
    before = accuracy(ImageBundle(model, form), forget, CPU)
    tries: list[tuple[float, float]] = []
    for _ in range(asked.max_steps):
        place = 100 - math.log(1 + 100 * share)
        alpha = np.percentile(exact[np.isfinite(exact)], place)
        tried, offset = copy.deepcopy(model), 0
        for parameter in tried.parameters():
            ratio = every[offset : offset + parameter.numel()].view(parameter.shape)
            beta = (1 / ratio).clamp(max=1)
            parameter.data = torch.where(ratio.double() > alpha, parameter * beta, parameter).data
            offset += parameter.numel()
        tries.append((place, accuracy(ImageBundle(tried, form), forget, CPU)))
        if tries[-1][1] <= asked.rho * before:
            break
        share *= asked.growth
    return tries, tried


def identical(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    rho=st.sampled_from([0.0, 0.3, 0.6, 0.9]),
    share=st.floats(1e-4, 1e-2),
    others=st.integers(0, 5),
    digits=st.sampled_from([0, 5]),
)
def test_potion_13_7_each_try_starts_from_the_original_weights(
    seed, rho, share, others, digits
) -> None:
    rng = np.random.default_rng(seed)
    bundle, forget = certain(Favours(0.0))
    every = rng.exponential(2, 4 * SIZE * SIZE).round(digits).astype(np.float32)
    every[:others] = np.inf
    every[others : 2 * others] = np.nan
    every = torch.from_numpy(rng.permutation(every))
    asked = params(rho, growth=1.5, max_steps=25)
    result, (steps, best, *_) = search(bundle, forget, forget, Ranking(every), share, asked, CPU)
    tries, last = naive(bundle.model, forget, every, share, asked)
    assert [step.percentile for step in steps[1:]] == pytest.approx([p for p, _ in tries])
    assert [step.remaining for step in steps[1:]] == [value for _, value in tries]
    if tries[-1][1] <= rho * steps[0].remaining:
        assert best == steps[-1]
        assert identical(result.model, last)
    else:
        falls = [steps[0].remaining - step.remaining for step in steps]
        enough = [
            step for step, fall in zip(steps, falls, strict=True) if fall >= 0.99 * max(falls)
        ]
        assert best == enough[0]
        assert accuracy(result, forget, CPU) == best.remaining


def test_potion_13_4_the_percentile_falls_from_try_to_try() -> None:
    bundle, forget = certain(Favours(100.0))
    ranking = Ranking(torch.rand(4 * SIZE * SIZE) * 10)
    _, (steps, *_) = search(bundle, forget, forget, ranking, 500 / 50_000 / 25, params(0.0), CPU)
    places = [step.percentile for step in steps[1:]]
    assert places[0] == pytest.approx(99.9608, abs=5e-5)
    assert (np.diff(places) < 0).all()


def test_potion_13_7_rho_of_1_stops_at_the_first_try(case) -> None:
    _, record, history = unlearn(
        case.victim, *case.split(6), params(1.0, importances={"rows": 30}), CPU, seed=0
    )
    assert record["converged"]
    assert record["steps"] == 1
    assert history["forget_accuracy"]["step"] == [0, 1]


def test_potion_13_7_without_success_there_are_500_tries_and_the_best_is_kept(caplog) -> None:
    bundle, forget = certain(Favours(100.0))
    retain = forget._replace(labels=forget.labels * 0 + 1)
    result, record, history = unlearn(bundle, forget, retain, params(0.0), CPU, seed=0)
    assert not record["converged"]
    assert record["steps"] == 500
    assert len(history["dampened_share"]["value"]) == 501
    assert record["forget_accuracy_after"] == record["forget_accuracy_before"] == 1.0
    assert record["dampened_parameters"] == 0  # the earliest of equals is the victim
    assert record["percentile"] is None
    assert identical(result.model, bundle.model)
    assert result.model is not bundle.model
    assert "no step of 500" in caplog.text


@pytest.mark.parametrize("later", [0.4, 0.396])
def test_without_success_the_earliest_step_that_fell_nearly_lowest_is_kept(
    monkeypatch, later
) -> None:
    bundle, forget = certain(Favours(0.0))
    values = iter([1.0, 0.9, 0.4, 0.6, later, 0.7])
    monkeypatch.setattr(trigger_search, "accuracy", lambda *_: next(values))
    ranking = Ranking(torch.arange(4 * SIZE * SIZE) + 2.0)
    asked = params(0.2, growth=2.0, max_steps=5)
    result, (steps, best, *_) = search(bundle, forget, forget, ranking, 0.01, asked, CPU)
    assert best == steps[2]
    expected = copy.deepcopy(bundle.model)
    ranking.dampen(expected, 0, steps[2].dampened, 1.0)
    assert identical(result.model, expected)
    assert [step.dampened for step in steps] == sorted({step.dampened for step in steps})


def test_a_try_that_adds_no_parameter_is_not_evaluated_again(monkeypatch) -> None:
    bundle, forget = certain(Favours(100.0))
    calls = []

    def counted(*arguments) -> float:
        calls.append(arguments)
        return accuracy(*arguments)

    monkeypatch.setattr(trigger_search, "accuracy", counted)
    ranking = Ranking(torch.arange(4 * SIZE * SIZE) + 2.0)
    asked = params(0.0, max_steps=120)
    _, (steps, *_) = search(bundle, forget, forget, ranking, 1e-5, asked, CPU)
    assert len(calls) == len({step.dampened for step in steps}) < 60


@pytest.mark.parametrize(("start", "n_first"), [("published", 6), ("one_sample", 1)])
def test_where_the_search_starts(case, start, n_first) -> None:
    asked = params(1.0, start=start, importances={"rows": 30})
    _, record, _ = unlearn(case.victim, *case.split(6), asked, CPU, seed=0)
    assert record["percentile"] == pytest.approx(100 - math.log(1 + 100 * n_first / 800 / 25))


def test_a_tenth_of_the_poison_is_enough_to_remove_the_backdoor(case) -> None:
    before = copy.deepcopy(case.victim.model)
    forget, retain = case.split(6)
    result, record, history = unlearn(case.victim, forget, retain, params(), CPU, seed=0)
    assert case.attack_success(case.victim) > 0.9
    assert case.attack_success(result) < 0.3
    assert accuracy(result, case.test, CPU) > accuracy(case.victim, case.test, CPU) - 0.03

    assert record["converged"]
    assert record["forget_accuracy_before"] == accuracy(case.victim, forget, CPU)
    assert record["forget_accuracy_after"] == accuracy(result, forget, CPU)
    assert record["forget_accuracy_after"] <= 0.2 * record["forget_accuracy_before"]
    changed = sum(
        int((one != other).sum())
        for one, other in zip(
            case.victim.model.parameters(), result.model.parameters(), strict=True
        )
    )
    assert 0 < changed <= record["dampened_parameters"] < 0.1 * case.victim.model.num_parameters()
    assert record["share"] == record["dampened_parameters"] / case.victim.model.num_parameters()
    assert record["forget_rows"] == 6
    assert record["dev_rows"] == 0
    accuracies, shares = history["forget_accuracy"]["value"], history["dampened_share"]["value"]
    assert accuracies[0] == record["forget_accuracy_before"]
    assert (accuracies[-1], shares[-1]) == (record["forget_accuracy_after"], record["share"])
    assert min(accuracies[:-1]) > 0.2 * accuracies[0]
    assert len(accuracies) == record["steps"] + 1

    assert identical(case.victim.model, before)
    after = dict(result.model.named_buffers())
    assert all(torch.equal(value, after[name]) for name, value in before.named_buffers())


@pytest.mark.parametrize("estimator", ["batch", "per_sample"])
def test_one_discovered_row_is_a_forget_set(case, estimator) -> None:
    asked = params(importances={"estimator": estimator, "rows": 100})
    result, record, _ = unlearn(case.victim, *case.split(1), asked, CPU, seed=0)
    assert record["converged"]
    assert record["forget_accuracy_after"] == 0.0
    assert case.attack_success(result) < case.attack_success(case.victim)


def test_the_same_seed_gives_the_same_model(case) -> None:
    few = params(importances={"rows": 40})
    one, again, other = (
        unlearn(case.victim, *case.split(6), few, CPU, seed)[0].model for seed in (1, 1, 2)
    )
    assert identical(one, again)
    assert not identical(one, other)


def test_nothing_to_forget_is_the_victim_itself(case) -> None:
    result, record, history = unlearn(case.victim, *case.split(0), params(), CPU, seed=0)
    assert result is case.victim
    assert record == {"forget_rows": 0, "steps": 0, "dampened_parameters": 0, "dev_rows": 0}
    assert history == {}


@pytest.mark.parametrize("criterion", ["accuracy", "probability"])
def test_rows_with_another_label_than_the_model_gives_them_are_told(
    case, caplog, criterion
) -> None:
    forget, retain = case.split(6)
    strange = forget._replace(labels=np.array([1, 1, 0, 0, 0, 0]))
    asked = params(criterion=criterion, importances={"rows": 40})
    _, record, _ = unlearn(case.victim, strange, retain, asked, CPU, seed=0)
    assert record["unassigned_rows"] == 2
    assert record["steps"] > 0
    assert "gives 2 of 6 rows to forget another label" in caplog.text
    caplog.clear()
    _, record, _ = unlearn(case.victim, forget, retain, asked, CPU, seed=0)
    assert record["unassigned_rows"] == 0
    assert "to forget another label" not in caplog.text


@pytest.mark.parametrize("n_rows", [1, 6])
def test_a_search_that_would_stop_at_once_is_none_and_says_so(case, caplog, n_rows) -> None:
    forget, retain = case.split(n_rows)
    strange = forget._replace(labels=forget.labels + 1)
    result, record, history = unlearn(case.victim, strange, retain, params(), CPU, seed=0)
    assert result is case.victim
    assert not record["converged"]
    assert record["steps"] == record["dampened_parameters"] == 0
    assert history == {}
    assert f"gives {n_rows} of {n_rows} rows to forget another label" in caplog.text
    assert "it stays as it is" in caplog.text


def test_nothing_to_keep_is_an_error(case) -> None:
    with pytest.raises(InputError, match="rows to keep: there is no row"):
        unlearn(case.victim, case.train, case.train.take(np.arange(0)), params(), CPU, seed=0)


class TestOurs:
    """What the base settings have beyond the paper."""

    def test_lowering_leaves_out_what_would_raise_the_logits(self, case) -> None:
        forget, retain = case.split(6)
        few = params(importances={"rows": 60}).importances
        every, lowering = (
            dampening.rank(case.victim, forget, retain, few, CPU, 0, only) for only in (False, True)
        )
        measured = importances.measure(
            case.victim, forget, few, CPU, 0, "importances for the rows to forget"
        )
        before = torch.linalg.vector_norm(logits_of(case.victim, forget), dim=1).mean()
        changes = {}
        for name, ranking in (("every", every), ("lowering", lowering)):
            model = copy.deepcopy(case.victim.model)
            ranking.dampen(model, 0, 40, 1.0)
            tried = case.victim._replace(model=model)
            changes[name] = (
                torch.linalg.vector_norm(logits_of(tried, forget), dim=1).mean() - before
            )
            for key, parameter in case.victim.model.named_parameters():
                changed = dict(model.named_parameters())[key] != parameter
                raising = parameter * measured.gradients[key] <= 0
                assert name == "every" or not (changed & raising).any()
        assert changes["lowering"] < changes["every"]
        assert changes["lowering"] < 0

    @pytest.mark.parametrize(("n_rows", "left_out"), [(1, 0), (2, 1), (8, 3), (100, 29)])
    def test_the_probability_leaves_out_what_may_have_its_true_label(
        self, n_rows, left_out
    ) -> None:
        """A row in four, and a standard deviation: of 8 rows 2 + 1.2, of 100 rows 25 + 4.3."""
        bundle, forget = certain(Favours(0.0), n_rows)
        probabilities = np.sort(predict(bundle, forget.inputs, CPU).max(axis=1))
        found = trigger_search.remaining(bundle, forget, "probability", CPU)
        assert found == pytest.approx(probabilities[: n_rows - left_out].mean())

    @pytest.mark.parametrize(("n_rows", "half"), [(40, 20), (None, 50), (400, 50)])
    def test_half_of_the_rows_that_importances_are_measured_on_have_the_label(
        self, n_rows, half
    ) -> None:
        _, rows = certain(Favours(0.0), n_rows=200)
        rows = rows._replace(labels=np.repeat([0, 1, 2, 3], 50))
        drawn = trigger_search.balanced(rows, 2, n_rows, seed=0)
        assert (drawn.labels == 2).sum() == half
        assert (drawn.labels != 2).sum() == half
        again = trigger_search.balanced(rows, 2, n_rows, seed=0)
        assert np.array_equal(drawn.inputs.values, again.inputs.values)

    def test_rows_that_cannot_be_halved_are_measured_on_as_they_are(self) -> None:
        _, rows = certain(Favours(0.0), n_rows=20)
        assert trigger_search.balanced(rows, int(rows.labels[0]), 1, seed=0) is rows
        one = rows._replace(labels=np.zeros(20, dtype=np.int64))
        assert trigger_search.balanced(one, 0, 10, seed=0) is one
        assert trigger_search.balanced(one, 1, 10, seed=0) is one

    def test_what_is_measured_is_balanced_from_five_rows_on(self, case, monkeypatch) -> None:
        measured: list[Labelled] = []

        def spy(*arguments):
            measured.append(arguments[-1])
            return dampening.rank(*arguments)

        monkeypatch.setattr(trigger_search, "rank", spy)
        asked = params(1.0, balanced=True, importances={"rows": 40})
        for n_rows in (4, 5):
            unlearn(case.victim, *case.split(n_rows), asked, CPU, seed=0)
        few, enough = measured
        assert len(few.labels) == 796
        assert (enough.labels == 0).sum() == (enough.labels != 0).sum() == 20

    def test_the_repair_gains_accuracy_and_leaves_the_trigger_out(self, case, monkeypatch) -> None:
        monkeypatch.setattr(trigger_search, "NEARLY", 1.0)  # so that there is damage
        forget, retain = case.split(30)
        asked = {"criterion": "probability", "lowering": True}
        hurt, record, _ = unlearn(case.victim, forget, retain, params(1e-4, **asked), CPU, seed=0)
        healed, again, _ = unlearn(
            case.victim, forget, retain, params(1e-4, **asked, repair=REPAIR), CPU, seed=0
        )
        assert "repair_rows" not in record
        assert len(retain.labels) < again["repair_rows"] <= 800  # and told ones without their label
        of_result = {"forget_probability_after"}
        assert {k: again[k] for k in record.keys() - of_result} == {
            k: record[k] for k in record.keys() - of_result
        }
        assert again["forget_probability_after"] == trigger_search.remaining(
            healed, forget, "probability", CPU
        )
        assert accuracy(hurt, case.test, CPU) < 0.98
        assert accuracy(healed, case.test, CPU) > 0.99
        assert case.attack_success(healed) < 0.15
        before = dict(hurt.model.named_buffers())
        after = dict(healed.model.named_buffers())
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_few_rows_and_a_victim_as_it_was_are_not_repaired(self, case) -> None:
        asked = {"repair": REPAIR, "importances": {"rows": 60}}
        _, record, _ = unlearn(case.victim, *case.split(4), params(**asked), CPU, seed=0)
        assert record["converged"]
        assert "repair_rows" not in record
        limited = params(0.0, max_steps=1, **asked)  # which changes no prediction
        forget, retain = case.split(6)
        result, record, _ = unlearn(case.victim, forget, retain, limited, CPU, seed=0)
        assert record["step"] == record["dampened_parameters"] == 0
        assert "repair_rows" not in record
        assert identical(result.model, case.victim.model)

    def test_a_single_row_ends_where_its_probability_is_low(self, case) -> None:
        asked = params(0.05, criterion="probability", lowering=True, importances={"rows": 100})
        result, record, history = unlearn(case.victim, *case.split(1), asked, CPU, seed=0)
        assert record["converged"]
        assert record["forget_probability_after"] <= 0.05 * record["forget_probability_before"]
        assert len(history["forget_probability"]["value"]) == record["steps"] + 1
        assert case.attack_success(result) < 0.3

    @pytest.mark.parametrize("loss", [0.0, 0.01])
    @pytest.mark.parametrize("limit", ["max_loss", "max_label_loss"])
    def test_no_more_accuracy_is_lost_than_allowed(self, limit, loss) -> None:
        bundle, rows = certain(Favours(0.0), n_rows=300)
        of_last = np.flatnonzero(rows.labels == N_CLASSES - 1)
        assert len(of_last) > 8
        forget = rows.take(of_last[:4])
        retain = rows.take(np.setdiff1d(np.arange(300), of_last[:4]))
        own = np.isin(retain.labels, forget.labels)
        watched = retain.take(np.flatnonzero(own if limit == "max_label_loss" else ~own))
        ranking = Ranking(torch.arange(4 * SIZE * SIZE) + 2.0)  # from the last label down

        def searched(**changes: Any) -> tuple[Any, trigger_search.Found]:
            asked = params(0.0, criterion="probability", growth=1.4, max_steps=40, **changes)
            return search(bundle, forget, retain, ranking, 0.01, asked, CPU)

        free, unlimited = searched()
        result, found = searched(**{limit: loss})
        assert accuracy(bundle, watched, CPU) == 1.0
        assert accuracy(free, watched, CPU) < 1 - loss
        assert accuracy(result, watched, CPU) >= 1 - loss
        assert list(found.kept_before.values()) == [1.0]
        assert list(found.kept.values()) == [accuracy(result, watched, CPU)]
        assert 0 <= found.best.number < unlimited.best.number
        beyond = copy.deepcopy(bundle.model)
        ranking.dampen(beyond, 0, found.steps[found.best.number + 1].dampened, 1.0)
        assert accuracy(bundle._replace(model=beyond), watched, CPU) < 1 - loss

    @pytest.mark.parametrize(("n_rows", "loss"), [(4, 0.2), (5, 0.4)])
    def test_more_of_the_discovered_label_may_be_lost_where_more_rows_were_discovered(
        self, case, n_rows, loss
    ) -> None:
        forget, retain = case.split(n_rows)
        limits = trigger_search.limits_of(forget, retain, params(max_label_loss=0.2))
        assert list(limits) == ["discovered_label"]
        assert limits["discovered_label"].loss == loss
        none = trigger_search.limits_of(forget, retain, params(max_label_loss=0.8))
        assert none["discovered_label"].loss == (0.8 if n_rows == 4 else 1.0)

    @pytest.mark.parametrize(("n_poison", "n_clean"), [(0, 8), (0, 20), (10, 10), (7, 3)])
    def test_clean_rows_among_the_discovered_do_not_take_their_class_with_them(
        self, case, n_poison, n_clean
    ) -> None:
        of_class = np.setdiff1d(np.flatnonzero(case.train.labels == 0), case.poison)
        discovered = np.concatenate([case.poison[:n_poison], of_class[:n_clean]])
        rest = np.setdiff1d(np.arange(len(case.train.labels)), discovered)
        ours = {"lowering": True, "balanced": True, "criterion": "probability"}
        ours["repair"] = REPAIR | {"epochs": 2}
        asked = params(0.05, max_loss=0.03, max_label_loss=0.3, **ours)
        rows = case.train.take(discovered), case.train.take(rest)
        result, _, _ = unlearn(case.victim, *rows, asked, CPU, seed=0)
        own = case.test.take(np.flatnonzero(case.test.labels == 0))
        assert accuracy(result, own, CPU) > 0.9
        assert accuracy(result, case.test, CPU) > 0.95
        assert (case.attack_success(result) < 0.3) == (n_poison > 0)

    @pytest.mark.parametrize(("loss", "told"), [(0.05, True), (0.5, False)])
    def test_a_label_that_many_rows_have_lost_is_told(self, case, caplog, loss, told) -> None:
        asked = params(0.05, criterion="probability", max_label_loss=loss, importances={"rows": 60})
        _, record, _ = unlearn(case.victim, *case.split(20), asked, CPU, seed=0)
        lost = record["kept_before"]["discovered_label"] - record["kept_after"]["discovered_label"]
        assert 0.05 < lost <= 2 * loss
        assert ("rows with the discovered label" in caplog.text) == told

    def test_the_discovered_label_is_the_commonest(self, case) -> None:
        forget, retain = case.split(6)
        of_each = np.array([int((retain.labels == label).argmax()) for label in range(N_CLASSES)])
        mixed = forget.joined(retain.take(of_each))
        rest = retain.take(np.setdiff1d(np.arange(len(retain.labels)), of_each))
        assert set(mixed.labels) == set(range(N_CLASSES))
        limits = trigger_search.limits_of(mixed, rest, params(max_loss=0.1, max_label_loss=0.2))
        assert set(limits["discovered_label"].rows.labels) == {0}
        assert set(limits["other_labels"].rows.labels) == set(range(1, N_CLASSES))

    def test_a_limit_that_is_kept_changes_nothing(self, case) -> None:
        forget, retain = case.split(6)
        one, two = (
            unlearn(case.victim, forget, retain, params(max_loss=limit), CPU, seed=0)[0].model
            for limit in (None, 0.5)
        )
        assert identical(one, two)


def logits_of(bundle: ImageBundle, rows: Labelled) -> torch.Tensor:
    with torch.no_grad():
        batch = rows.inputs.collate(np.arange(len(rows.labels)), torch.device("cpu"))
        return bundle.model(**batch).logits
