"""The two parts of a mapping: the identities of the filter, and its traps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from backdoor_pipeline.pipelines.analyse.frequency import distances, low_pass, measure

WIDTHS = np.linspace(2, 8, 4)


@pytest.fixture
def texts(rng):
    """Points of 30 texts, their labels, and what some model says of them."""
    points, labels = rng.normal(size=(30, 6)) * 3, np.arange(30) % 2
    right = rng.uniform(0.2, 0.9, size=30)
    probabilities = np.stack([1 - right, right], axis=1)
    return distances(points), labels, probabilities


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@given(
    points=arrays.arrays(np.float64, (7, 3), elements=st.floats(-50, 50)),
    width=st.floats(0.1, 100),
)
def test_musclelora_10_8_rows_of_a_filter_sum_to_one(points, width) -> None:
    filtered = low_pass(distances(points), width)
    np.testing.assert_allclose(filtered.sum(axis=1), 1, rtol=1e-5)
    assert (filtered >= 0).all()


def test_filter_equals_a_naive_loop(rng) -> None:
    points, width = rng.normal(size=(6, 4)), 1.7
    naive = np.empty((6, 6))
    for i in range(6):
        for j in range(6):
            naive[i, j] = np.exp(-np.sqrt(((points[i] - points[j]) ** 2).sum()) / (2 * width))
        naive[i] /= naive[i].sum()
    np.testing.assert_allclose(low_pass(distances(points), width), naive, rtol=1e-5)


def test_musclelora_10_8_a_narrow_filter_keeps_everything_and_a_wide_one_the_mean(texts) -> None:
    between, _, probabilities = texts
    np.testing.assert_allclose(low_pass(between, 1e-3) @ probabilities, probabilities, atol=1e-6)
    mean = np.tile(probabilities.mean(axis=0), (30, 1))
    np.testing.assert_allclose(low_pass(between, 1e6) @ probabilities, mean, atol=1e-4)


def test_measures_equal_a_naive_loop(texts) -> None:
    between, labels, h = texts
    y = np.eye(2)[labels]

    def mean_norm(rows):
        return np.mean([np.sqrt((row**2).sum()) for row in rows])

    found = measure(h, labels, between, WIDTHS)
    for place, width in enumerate(WIDTHS):
        g = low_pass(between, width).astype(float)
        for part, deviation, ratio in (
            (lambda rows, g=g: g @ rows, found.low_deviation, found.low_ratio),
            (lambda rows, g=g: rows - g @ rows, found.high_deviation, found.high_ratio),
        ):
            expected = mean_norm(part(h) - part(y)) / mean_norm(part(y))
            assert deviation[place] == pytest.approx(expected, rel=1e-3)
            assert ratio[place] == pytest.approx(mean_norm(part(h)) / mean_norm(h), rel=1e-3)


def test_musclelora_10_8_a_perfect_predictor_has_no_deviation(texts) -> None:
    between, labels, _ = texts
    found = measure(np.eye(2)[labels], labels, between, WIDTHS)
    assert found.low_deviation == pytest.approx(np.zeros(4), abs=1e-6)
    assert found.high_deviation == pytest.approx(np.zeros(4), abs=1e-6)


def test_constant_labels_have_no_high_part(texts) -> None:
    between, _, probabilities = texts
    found = measure(probabilities, np.ones(30, dtype=int), between, WIDTHS)
    assert np.isnan(found.high_deviation).all()
    assert np.isfinite(found.low_deviation).all() and np.isfinite(found.high_ratio).all()


def test_labels_have_no_high_part_where_the_filter_keeps_everything(texts) -> None:
    between, labels, probabilities = texts
    found = measure(probabilities, labels, between, np.array([1e-3]))
    assert np.isnan(found.high_deviation).all()
    assert found.low_ratio == pytest.approx([1.0], abs=1e-5)


def test_a_narrower_filter_keeps_more_as_low(texts) -> None:
    between, labels, probabilities = texts
    found = measure(probabilities, labels, between, WIDTHS)
    assert (np.diff(found.high_ratio) > 0).all()
