"""The discovery curve against numbers by hand; its intervals and its area."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.intervals import Rate, rate
from backdoor_pipeline.pipelines.evaluate.discovery import area, difference, over_draws
from backdoor_pipeline.pipelines.evaluate.nodes import evaluate_discovery
from backdoor_pipeline.schemas import DISCOVERY_CURVE, DISCOVERY_PREDICTIONS

Z = 1.959964
STUDENT = 12.7062  # of one degree of freedom
CLEAN = [0, 1, 2, 0]  # the true labels of the rows
TRIGGERED = [1, 2, 1, 2]
POISON = [1, 0]
N_POISONED = len(POISON)
SAID = {
    (0, 0): {"clean": [0, 1, 2, 0], "triggered": [0, 0, 0, 2], "poison": [0, 0]},
    (1, 0): {"clean": [0, 1, 2, 1], "triggered": [1, 0, 0, 2], "poison": [0, 0]},
    (1, 1): {"clean": [0, 1, 2, 0], "triggered": [1, 2, 1, 2], "poison": [1, 0]},
    (2, 0): {"clean": [1, 1, 2, 1], "triggered": [1, 2, 1, 0], "poison": [1, 1]},
}


def tables(said=SAID) -> tuple[pd.DataFrame, ...]:
    """The inputs of the node; ids of the test sets do not coincide with positions."""
    ids = {"clean": [10, 11, 12, 13], "triggered": [13, 12, 11, 10], "poison": [5, 4]}
    predictions = pd.concat(
        pd.DataFrame(
            {
                "told_share": rows / N_POISONED,
                "told_rows": rows,
                "draw": draw,
                "test_set": test_set,
                "example_id": ids[test_set],
                "predicted": predicted,
            }
        )
        for (rows, draw), of_model in said.items()
        for test_set, predicted in of_model.items()
    )
    examples = pd.DataFrame({"example_id": ids["clean"], "label": CLEAN})
    poisoned = {"example_id": [4, 5, 6], "label": [0, 0, 1], "source_label": [*POISON[::-1], 1]}
    triggered = {"example_id": ids["triggered"], "label": 0, "source_label": TRIGGERED}
    checked = DISCOVERY_PREDICTIONS.validate(predictions.reset_index(drop=True))
    return checked, examples, pd.DataFrame(triggered), pd.DataFrame(poisoned)


@pytest.fixture(scope="module")
def found():
    return evaluate_discovery(*tables())


@pytest.fixture(scope="module")
def curve(found) -> pd.DataFrame:
    return DISCOVERY_CURVE.validate(found[0])


@pytest.fixture(scope="module")
def summary(found) -> dict:
    return found[1]


def test_values_are_means_over_draws(curve) -> None:
    # by hand: the victim has CA 1, RA 1/4, so that 3/4 can be healed
    expected = {
        "told_share": [0.5, 1.0],
        "told_rows": [1, 2],
        "draws": [2, 1],
        "clean_accuracy": [(3 / 4 + 1) / 2, 1 / 2],
        "clean_accuracy_drop": [(1 / 4 + 0) / 2, 1 / 2],
        "attack_success_rate": [(2 / 4 + 0) / 2, 1 / 4],
        "robust_accuracy": [(2 / 4 + 1) / 2, 3 / 4],
        "healed": [((1 / 4) / (3 / 4) + 1) / 2, (2 / 4) / (3 / 4)],
        "healed_poison": [(1 / 2 + 1) / 2, 1 / 2],
    }
    for name, values in expected.items():
        assert curve[name].tolist() == pytest.approx(values), name


def test_a_single_draw_has_the_interval_of_its_rows(curve) -> None:
    last = curve.iloc[-1]
    wilson = rate(np.array([True, True, True, False]))
    assert (last["robust_accuracy_low"], last["robust_accuracy_high"]) == wilson[1:3]
    gain = difference(np.array([0, 0, 0, 1]) == 1, np.array([1, 1, 1, 0]) == 1)
    assert last["healed_low"] == pytest.approx(gain.low / 0.75)
    assert last["healed_high"] == pytest.approx(gain.high / 0.75)
    assert last["healed_n"] == 4


def test_the_summary_holds_areas_and_the_victim(curve, summary) -> None:
    assert (summary["from_share"], summary["to_share"]) == (0.5, 1.0)
    for name in ("healed", "attack_success_rate", "clean_accuracy_drop"):
        for end in ("", "_low", "_high"):  # of two points, a mean
            assert summary["area"][name + end] == pytest.approx(curve[name + end].mean())
    victim = {"clean_accuracy": 1, "attack_success_rate": 3 / 4, "robust_accuracy": 1 / 4}
    assert victim | {"healed_poison": 1 / 2} == {
        name: summary["victim"][name] for name in (*victim, "healed_poison")
    }
    assert summary["victim"]["clean_accuracy_n"] == 4
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_the_order_of_rows_is_none_of_its_business(curve) -> None:
    predictions, *others = tables()
    shuffled = predictions.sample(frac=1, random_state=1).reset_index(drop=True)
    pd.testing.assert_frame_equal(evaluate_discovery(shuffled, *others)[0], curve)


def test_a_victim_without_a_backdoor_has_nothing_to_heal() -> None:
    knows = {"clean": [0, 1, 0, 1], "triggered": [1, 2, 1, 0], "poison": [1, 1]}
    curve, summary = evaluate_discovery(*tables(SAID | {(0, 0): knows}))
    DISCOVERY_CURVE.validate(curve)
    assert curve[["healed", "healed_low", "healed_high"]].isna().all(axis=None)
    assert summary["area"]["healed"] is summary["area"]["healed_low"] is None
    assert summary["area"]["attack_success_rate"] is not None
    assert json.dumps(summary, allow_nan=False)


pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50)


class TestDifference:
    def test_is_by_agresti_and_min(self) -> None:
        before = np.array([True] * 5 + [False] * 5)
        after = np.array([True] * 4 + [False] + [True] * 3 + [False] * 2)
        middle, error = 2 / 12, math.sqrt((5 / 12 - (2 / 12) ** 2) / 12)
        expected = (0.2, middle - Z * error, middle + Z * error, 10)
        assert difference(before, after) == pytest.approx(expected, abs=1e-6)

    @given(pairs)
    def test_lies_in_its_interval_and_turns_round(self, hits) -> None:
        before, after = (np.array(part) for part in zip(*hits, strict=True))
        there, back = difference(before, after), difference(after, before)
        assert -1 <= there.low <= there.value <= there.high <= 1
        assert (back.value, back.low) == pytest.approx((-there.value, -there.high))


class TestOverDraws:
    def test_one_draw_is_left_alone(self) -> None:
        assert over_draws([Rate(0.3, 0.2, 0.5, 9)], 0, 1) == pytest.approx((0.3, 0.2, 0.5, 9))

    def test_errors_of_rows_and_draws_add_in_quadrature(self) -> None:
        draws = [Rate(0.50, 0.44, 0.58, 9), Rate(0.52, 0.48, 0.58, 9)]
        half = STUDENT * np.std([0.50, 0.52], ddof=1) / math.sqrt(2)
        below, above = math.hypot(0.05, half), math.hypot(0.07, half)
        expected = (0.51, 0.51 - below, 0.51 + above, 9)
        assert over_draws(draws, 0, 1) == pytest.approx(expected, abs=1e-5)

    def test_ends_stay_where_values_can_be(self) -> None:
        draws = [Rate(0.0, 0.0, 0.1, 9), Rate(1.0, 0.9, 1.0, 9)]
        assert over_draws(draws, 0, 1)[1:3] == (0, 1)
        assert over_draws(draws, -1, 1)[1:3] == (-1, 1)


class TestArea:
    def test_is_that_of_trapezoids_by_width(self) -> None:
        shares, heights = np.array([0.1, 0.5, 1.0]), np.array([0.0, 1.0, 0.5])
        assert area(shares, heights) == pytest.approx((0.4 * 0.5 + 0.5 * 0.75) / 0.9)

    def test_of_one_point_is_its_height(self) -> None:
        assert area(np.array([1.0]), np.array([0.25])) == 0.25

    def test_is_not_known_where_a_height_is_not(self) -> None:
        assert area(np.array([0.5, 1.0]), np.array([0.25, np.nan])) is None

    @given(
        st.lists(st.integers(1, 1000), min_size=1, max_size=12, unique=True),
        st.data(),
    )
    def test_is_a_mean_height(self, thousandths, data) -> None:
        shares = np.sort(thousandths) / 1000
        numbers = st.floats(-3, 3)
        of = st.lists(numbers, min_size=len(shares), max_size=len(shares))
        heights = np.array(data.draw(of))
        found = area(shares, heights)
        assert heights.min() - 1e-9 <= found <= heights.max() + 1e-9
        level = data.draw(numbers)
        assert area(shares, np.full(len(shares), level)) == pytest.approx(level)
