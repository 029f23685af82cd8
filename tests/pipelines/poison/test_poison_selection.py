"""Which rows are poisoned: counting, draw, and rates that cannot be had."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.pipelines.poison.selection import (
    check_rate,
    draw_poison,
    eligible_rows,
    largest_rate,
)

MODES = ("dirty", "clean", "mix")
labels_of_rows = st.lists(st.integers(0, 3), min_size=1, max_size=60).map(np.array)


@pytest.mark.parametrize(
    ("label_mode", "expected"),
    [("dirty", [True, False, True]), ("clean", [False, True, False]), ("mix", [True] * 3)],
)
def test_eligible_rows(make_params, label_mode, expected) -> None:
    params = make_params({"label_mode": label_mode})
    np.testing.assert_array_equal(eligible_rows(np.array([0, 1, 2]), params), expected)


@pytest.mark.parametrize("label_mode", MODES)
@given(labels=labels_of_rows, rate=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_counting_is_openbackdoors(make_params, label_mode, labels, rate, seed) -> None:
    params = make_params({"label_mode": label_mode, "rate": rate})
    drawn = draw_poison(np.arange(len(labels)), labels, params, seed)
    eligible = eligible_rows(labels, params)
    assert drawn.sum() == min(int(rate * len(labels)), eligible.sum())
    assert not (drawn & ~eligible).any()


@given(seed=st.integers(0, 2**32), order_seed=st.integers(0, 100))
def test_the_draw_does_not_depend_on_row_order(make_params, seed, order_seed) -> None:
    ids, labels = np.arange(50, 100), np.arange(50) % 2
    order = np.random.default_rng(order_seed).permutation(50)
    params = make_params({"label_mode": "dirty", "rate": 0.2})
    drawn = draw_poison(ids, labels, params, seed)
    shuffled = draw_poison(ids[order], labels[order], params, seed)
    assert set(ids[drawn]) == set(ids[order][shuffled])


def test_a_lower_rate_draws_some_of_the_same_rows(make_params) -> None:
    ids, labels = np.arange(1000), np.arange(1000) % 2
    few = draw_poison(ids, labels, make_params({"rate": 0.05}), 0)
    many = draw_poison(ids, labels, make_params({"rate": 0.2}), 0)
    assert (few.sum(), many.sum()) == (50, 200)
    assert (many | ~few).all()


def test_every_row_is_drawn_equally_often(make_params) -> None:
    ids, labels, params = np.arange(40), np.zeros(40, dtype=int), make_params({"rate": 0.25})
    times = np.sum([draw_poison(ids, labels, params, seed) for seed in range(800)], axis=0)
    assert 150 < times.min() and times.max() < 250  # 200 expected, standard deviation 12


def test_more_rows_than_the_label_mode_allows(make_params) -> None:
    labels = np.array([1] * 1500 + [0] * 500)
    with pytest.raises(InputError) as error:
        check_rate(labels, make_params({"rate": 0.4, "label_mode": "dirty"}))
    assert str(error.value) == (
        "poison.rate 0.4 asks for 800 rows, but only 500 have a label other than target_label 1; "
        "lower it to 0.25 or less"
    )
    with pytest.raises(
        InputError, match=r"only 1500 have the target_label 1; lower it to 0\.75 or"
    ):
        check_rate(labels, make_params({"rate": 0.9, "label_mode": "clean"}))


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_that_is_no_fraction(make_params, rate) -> None:
    params = make_params({"label_mode": "dirty"}).model_copy(update={"rate": rate})
    with pytest.raises(InputError, match=rf"poison\.rate {rate} is not a fraction.* to 0.25, the"):
        check_rate(np.array([1, 1, 1, 0]), params)


def test_a_rate_of_less_than_one_row(make_params) -> None:
    with pytest.raises(InputError, match=r"less than one row; give at least 0.002, or 0"):
        check_rate(np.zeros(500, dtype=int), make_params({"rate": 0.001}))


@pytest.mark.parametrize("label_mode", MODES)
def test_rate_zero_is_a_control_run(make_params, label_mode) -> None:
    check_rate(np.array([0, 0, 0]), make_params({"rate": 0.0, "label_mode": label_mode}))


@given(n_rows=st.integers(1, 10**7), share=st.floats(0, 1))
def test_the_largest_rate_asks_for_no_more_than_there_are(n_rows, share) -> None:
    n_eligible = int(share * n_rows)
    assert int(largest_rate(n_rows, n_eligible) * n_rows) <= n_eligible
