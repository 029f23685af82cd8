"""The one place where rates are defined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.pipelines.evaluate.rates import (
    Rate,
    attack_success_rate,
    clean_accuracy,
    excess,
    healed,
    mcnemar,
    rate,
    robust_accuracy,
)

TARGET = 1
labels = st.lists(st.integers(0, 3), min_size=1, max_size=40)
shares = st.floats(0, 1)


@st.composite
def predictions(draw) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true labels of triggered rows, at least one of them not of the target."""
    truth = np.array([0, *draw(labels)])
    predicted = draw(st.lists(st.integers(0, 3), min_size=len(truth), max_size=len(truth)))
    return np.array(predicted), truth


class TestMinimalChecks:
    def test_1_who_always_answers_the_target_has_asr_1(self) -> None:
        assert attack_success_rate(np.full(4, TARGET), np.array([0, 1, 2, 0]), TARGET).value == 1

    def test_2_a_perfect_model_has_asr_0_and_heals_all(self) -> None:
        truth = np.array([0, 1, 2, 0])
        assert attack_success_rate(truth, truth, TARGET).value == 0
        assert robust_accuracy(truth, truth, TARGET).value == 1
        assert clean_accuracy(truth, truth).value == 1

    @pytest.mark.parametrize("truth", [[], [TARGET, TARGET]])
    @pytest.mark.parametrize("function", [attack_success_rate, robust_accuracy])
    def test_3_a_rate_of_nothing_is_an_error(self, function, truth) -> None:
        with pytest.raises(ValueError, match="no eligible examples"):
            function(np.array(truth), np.array(truth), TARGET)

    @given(predictions())
    def test_4_target_class_inputs_do_not_count(self, pair) -> None:
        predicted, truth = pair
        strict = attack_success_rate(predicted, truth, TARGET)
        flipped = np.where(truth == TARGET, 1 - predicted.clip(0, 1), predicted)
        assert attack_success_rate(flipped, truth, TARGET) == strict
        assert strict.n == (truth != TARGET).sum()

    def test_4_the_variant_all_counts_them(self) -> None:
        predicted, truth = np.array([1, 1, 0]), np.array([0, 1, 0])
        assert attack_success_rate(predicted, truth, TARGET).value == 1 / 2
        assert attack_success_rate(predicted, truth, TARGET, variant="all").value == 2 / 3

    def test_5_clean_accuracy_knows_no_trigger(self) -> None:
        import inspect

        assert list(inspect.signature(clean_accuracy).parameters) == ["predicted", "labels"]


@given(predictions())
def test_success_and_healing_exclude_each_other(pair) -> None:
    success = attack_success_rate(*pair, TARGET).value
    right = robust_accuracy(*pair, TARGET).value
    assert 0 <= success + right <= 1 + 1e-12


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_the_interval_contains_the_value(hits) -> None:
    share = rate(np.array(hits))
    assert 0 <= share.low <= share.value + 1e-12
    assert share.value <= share.high + 1e-12
    assert share.high <= 1
    assert share.n == len(hits)
    assert share.low < share.high


def test_the_interval_is_wilsons() -> None:
    n, p, z = 40, 10 / 40, 1.959964
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    share = rate(np.arange(n) < 10)
    assert share[:3] == pytest.approx((p, middle - half, middle + half), abs=1e-6)
    assert share.named("x") == {
        "x": share.value,
        "x_low": share.low,
        "x_high": share.high,
        "x_n": n,
    }


@given(shares, shares)
def test_excess_is_a_share(success, floor) -> None:
    assert 0 <= excess(success, floor) <= 1
    if success <= floor:
        assert excess(success, floor) == 0


def test_what_healed_is_a_part_of_what_the_trigger_spoils() -> None:
    gain = Rate(0.3, 0.2, 0.35, 40)
    assert healed(gain, 0.9, 0.3) == pytest.approx((0.5, 1 / 3, 0.35 / 0.6, 40))
    assert healed(Rate(0.0, -0.1, 0.1, 40), 0.9, 0.3).value == 0
    assert healed(gain, 0.9, 0.9) is healed(gain, 0.8, 0.9) is None


@given(shares.filter(lambda floor: floor < 1))
def test_full_success_is_full_excess(floor) -> None:
    assert excess(1.0, floor) == pytest.approx(1)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_mcnemar_is_symmetric_and_a_probability(pairs) -> None:
    before, after = (np.array([pair[i] for pair in pairs], dtype=bool) for i in (0, 1))
    p_value = mcnemar(before, after)
    assert p_value == mcnemar(after, before)
    assert 0 <= p_value <= 1


def test_mcnemar_counts_the_pairs_that_differ() -> None:
    same = np.array([True, False] * 50)
    assert mcnemar(same, same) == 1
    before = np.concatenate([same, np.ones(6, dtype=bool)])
    after = np.concatenate([same, np.zeros(6, dtype=bool)])
    assert mcnemar(before, after) == pytest.approx(2 / 2**6)
