"""Dampened parameters by their definition, and nothing else touched."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

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
from backdoor_pipeline.modelling.training import Labelled
from backdoor_pipeline.pipelines.unlearn import dampening
from backdoor_pipeline.pipelines.unlearn.dampening import (
    DampeningParams,
    Ranking,
    percentile,
    ratios,
    unlearn,
)
from backdoor_pipeline.pipelines.unlearn.importances import ImportanceParams, Measured, measure

CPU = ComputeParams(device="cpu", precision="fp32")
N_CLASSES = 3


class Mixed(torch.nn.Module):
    """Parameters of all shapes and layouts, a buffer among them."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        kernel = torch.randn(3, 2, 2, 2, generator=generator)
        self.kernel = torch.nn.Parameter(kernel.to(memory_format=torch.channels_last))
        self.bias = torch.nn.Parameter(torch.randn(3, generator=generator))
        self.scale = torch.nn.Parameter(torch.tensor(-1.5))
        self.turned = torch.nn.Parameter(torch.randn(4, 3, generator=generator).T)
        self.empty = torch.nn.Parameter(torch.empty(0))
        self.register_buffer("statistics", torch.ones(3))


def drawn(seed: int, zeros: float = 0.2) -> dict[str, torch.Tensor]:
    """Importances of ``Mixed``, some of which are 0."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(p.shape, generator=generator).add(1e-3)
        * (torch.rand(p.shape, generator=generator) >= zeros)
        for name, p in Mixed().named_parameters()
    }


def dampened(forgotten, kept, alpha: float, lambda_: float) -> Mixed:
    model, ranking = Mixed(), Ranking(ratios(forgotten, kept))
    ranking.dampen(model, 0, ranking.count(alpha, lambda_), lambda_)
    return model


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_potion_13_1_an_infinite_alpha_selects_nothing() -> None:
    assert same(dampened(drawn(1), drawn(2), math.inf, 1.0), Mixed())


@pytest.mark.parametrize("alpha", [1.0, 1.5, 100.0])
def test_potion_13_2_equal_importances_change_nothing(alpha) -> None:
    assert same(dampened(drawn(1), drawn(1), alpha, 1.0), Mixed())


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    alpha=st.floats(0.01, 100),
    lambda_=st.floats(0.01, 10),
    zeros=st.sampled_from([0.0, 0.2, 0.8]),
)
def test_potion_13_3_selected_parameters_shrink_and_others_stay(
    seed, alpha, lambda_, zeros
) -> None:
    forgotten, kept = drawn(seed, zeros), drawn(seed + 1, zeros=0.2)
    after = dict(dampened(forgotten, kept, alpha, lambda_).named_parameters())
    for name, before in Mixed().named_parameters():
        selected = forgotten[name] > alpha * kept[name]
        beta = (lambda_ * kept[name] / forgotten[name]).clamp(max=1)
        expected = torch.where(selected, beta * before, before)
        torch.testing.assert_close(after[name], expected, rtol=1e-6, atol=0)
        assert torch.equal(after[name][~selected], before[~selected])
        assert (after[name].abs() <= before.abs()).all()
        assert torch.equal(after[name].signbit(), before.signbit())
        assert after[name].stride() == before.stride()


def test_potion_13_4_percentiles() -> None:
    assert percentile(0.01) == pytest.approx(99.3069, abs=5e-5)
    assert percentile(500 / 50_000 / 25) == pytest.approx(99.9608, abs=5e-5)
    assert percentile(0.0) == 100
    assert percentile(math.inf) == 0


@given(
    seed=st.integers(0, 10**6),
    n_finite=st.integers(1, 50),
    n_others=st.integers(0, 5),
    place=st.floats(0, 100),
    digits=st.sampled_from([0, 1, 6]),
)
def test_alpha_is_the_percentile_of_the_finite_ratios(
    seed, n_finite, n_others, place, digits
) -> None:
    rng = np.random.default_rng(seed)
    finite = rng.exponential(10, n_finite).round(digits).astype(np.float32)
    every = np.concatenate([finite, [np.inf] * n_others, [np.nan] * n_others]).astype(np.float32)
    ranking = Ranking(torch.from_numpy(rng.permutation(every)))
    alpha = ranking.alpha(place)
    assert alpha == pytest.approx(np.percentile(finite.astype(np.float64), place), rel=1e-9)
    assert ranking.count(alpha, 0.0) == (every.astype(np.float64) > alpha).sum()


def test_a_ratio_equal_to_alpha_is_not_above_it() -> None:
    ranking = Ranking(torch.tensor([1.0, 2.0, 2.0, 3.0]))
    assert [ranking.count(alpha, 0.5) for alpha in (0.9, 1.0, 1.9, 2.0, 3.0)] == [4, 3, 3, 1, 0]


def test_parameters_without_importance_for_the_rows_to_keep_become_0() -> None:
    model = torch.nn.Linear(4, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    ranking = Ranking(torch.tensor([math.inf, math.nan, 4.0, 1.0]))
    count = ranking.count(2.0, 1.0)
    ranking.dampen(model, 0, count, 1.0)
    assert model.weight.tolist() == [[0.0, 1.0, 0.25, 1.0]]
    assert ranking.summary(count) == {
        "dampened_parameters": 2,
        "share": 0.5,
        "zero_importance_parameters": 1,
    }
    assert ranking.summary(0)["zero_importance_parameters"] == 0
    assert ranking.alpha(100.0) == 4.0  # the percentile knows finite ratios alone


def test_parts_of_the_ranking_add_up() -> None:
    ranking = Ranking(ratios(drawn(1), drawn(2)))
    whole, parts = Mixed(), Mixed()
    ranking.dampen(whole, 0, 20, 1.0)
    for start, end in ((0, 3), (3, 3), (3, 11), (11, 20)):
        ranking.dampen(parts, start, end, 1.0)
    assert same(whole, parts)
    assert not same(whole, Mixed())


def test_without_any_importance_for_the_rows_to_keep_there_is_an_error() -> None:
    with pytest.raises(InputError, match="no parameter has an importance above 0"):
        Ranking(torch.tensor([math.inf, math.nan]))


@pytest.fixture(scope="module")
def data() -> Labelled:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (40, 12, 12, 1), dtype=np.uint8)
    return Labelled(Pixels(values, measured_format(values)), rng.integers(0, N_CLASSES, 40))


@pytest.fixture(scope="module")
def victim(data) -> ImageBundle:
    """A random network with statistics of its own."""
    config = ResNet9Config(num_channels=1, width=1 / 32, num_labels=N_CLASSES)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet9ForImageClassification(config).train()
    model(**data.inputs.collate(np.arange(40), torch.device("cpu")))
    return ImageBundle(model, data.inputs.format)


def step(quantity: str = "ce", alpha: float | None = None, **changes: Any) -> DampeningParams:
    base = {"quantity": quantity, "estimator": "batch", "batch_size": 8, "rows": None, "chunk": 8}
    return DampeningParams(
        importances=ImportanceParams(**(base | changes)), alpha=alpha, lambda_=1.0
    )


@pytest.mark.parametrize("alpha", [None, 5.0])
@pytest.mark.parametrize("quantity", ["ce", "lf", "xlf"])
@pytest.mark.parametrize("n_forget", [1, 10])
def test_the_step_is_that_of_its_definition(victim, data, quantity, alpha, n_forget) -> None:
    forget, retain = data.take(np.arange(n_forget)), data.take(np.arange(n_forget, 40))
    params = step(quantity, alpha)
    kept, forgotten = (
        measure(victim, x, params.importances, CPU, 3).importances for x in (retain, forget)
    )
    result, record = unlearn(victim, forget, retain, params, CPU, seed=3)
    every = torch.cat([(forgotten[n] / kept[n]).flatten() for n in kept]).double().numpy()
    place = 100 - math.log(1 + 100 * n_forget / 40)
    bound = np.percentile(every[np.isfinite(every)], place) if alpha is None else alpha
    n_changed = 0
    for name, before in victim.model.named_parameters():
        ratio = (forgotten[name] / kept[name]).double()
        selected = (ratio > bound) & (ratio > 1)
        n_changed += int(selected.sum())
        expected = torch.where(selected, before / ratio, before).float()
        torch.testing.assert_close(
            result.model.get_parameter(name), expected, rtol=1e-6, atol=0, check_stride=True
        )
    assert 0 < n_changed == record["dampened_parameters"]
    assert record["alpha"] == pytest.approx(bound)
    assert record["percentile"] == (pytest.approx(place) if alpha is None else None)
    assert record["share"] == n_changed / len(every)
    assert record["forget_rows"] == n_forget
    assert record["dev_rows"] == 0


def test_the_victim_and_running_statistics_stay(victim, data) -> None:
    before = copy.deepcopy(victim.model)
    forget, retain = data.take(np.arange(5)), data.take(np.arange(5, 40))
    result, record = unlearn(victim, forget, retain, step(alpha=0.5), CPU, seed=3)
    assert record["dampened_parameters"] > 0
    assert same(victim.model, before)
    assert not same(result.model, before)
    after = dict(result.model.named_buffers())
    assert after
    assert all(torch.equal(value, after[name]) for name, value in before.named_buffers())
    assert result.image_format == victim.image_format


def test_nothing_to_forget_is_the_victim_itself(victim, data) -> None:
    result, record = unlearn(victim, data.take(np.arange(0)), data, step(), CPU, seed=3)
    assert result is victim
    assert record == {"forget_rows": 0, "dampened_parameters": 0, "dev_rows": 0}


def test_nothing_to_keep_is_an_error(victim, data) -> None:
    with pytest.raises(InputError, match="rows to keep: there is no row"):
        unlearn(victim, data, data.take(np.arange(0)), step(), CPU, seed=3)


class TestRank:
    """Ratios of importances that are told, not measured."""

    @pytest.fixture
    def ranked(self, data, monkeypatch):
        """A ranking of three parameters: a dense one, a rare word's, one that nothing needs."""
        zero = torch.zeros(2)
        kept = Measured(
            *({"dense": torch.tensor([0.5, 0.4]), "rare": zero, "unused": zero} for _ in range(3)),
            {"dense": torch.tensor([0.1, 0.1]), "rare": zero, "unused": zero},
        )
        forgotten = Measured(
            {"dense": torch.tensor([1.0, 2.0]), "rare": torch.tensor([0.1, 0.3]), "unused": zero},
            {"dense": torch.tensor([1.0, -1.0]), "rare": torch.tensor([1.0, 1.0]), "unused": zero},
            {"dense": torch.tensor([2.0, 2.0]), "rare": torch.tensor([0.5, 0.6]), "unused": zero},
            {"dense": zero, "rare": zero, "unused": zero},
        )
        model = torch.nn.Module()
        for name in forgotten.importances:
            model.register_parameter(name, torch.nn.Parameter(torch.ones(2)))

        def rank(n_retain: int, rows: int | None, **more: Any) -> Ranking:
            told = iter([kept, forgotten])
            monkeypatch.setattr(dampening.importances, "measure", lambda *_: next(told))
            params = ImportanceParams(
                **{"quantity": "xlf", "estimator": "per_sample", "batch_size": 9, "chunk": 9},
                rows=rows,
            )
            bundle = SimpleNamespace(model=model)
            some = data.take(np.arange(n_retain))
            return dampening.rank(bundle, some, some, params, CPU, 0, **more)

        return rank

    @pytest.mark.parametrize("rows", [None, 6, 9])
    def test_where_all_rows_to_keep_are_measured_zero_is_zero(self, ranked, rows) -> None:
        ranking = ranked(6, rows)
        assert ranking.summary(6)["zero_importance_parameters"] == 2
        assert [ranking.alpha(place) for place in (0, 100)] == [2.0, 5.0]

    @pytest.mark.parametrize("stands", [False, True])
    def test_what_few_of_the_drawn_rows_need_may_be_needed_by_others(
        self, ranked, data, stands
    ) -> None:
        few = {"stand_for": data.take(np.arange(4))} if stands else {}
        ranking = ranked(6, None if stands else 4, **few)
        assert ranking.summary(6)["zero_importance_parameters"] == 0
        values = sorted([0.1 / (3 / 4 * 0.5), 0.3 / (3 / 4 * 0.6), 2.0, 5.0])
        found = [ranking.alpha(100 * i / 3) for i in range(4)]
        assert found == pytest.approx(values)

    def test_lowering_leaves_what_has_no_ratio_out(self, ranked) -> None:
        """Of four ratios one is 0 then; two parameters still have none."""
        ranking = ranked(6, 4, lowering=True)
        assert [ranking.alpha(100 * i / 3) for i in range(4)] == pytest.approx(
            sorted([0.1 / (3 / 4 * 0.5), 0.3 / (3 / 4 * 0.6), 2.0, 0.0])
        )
