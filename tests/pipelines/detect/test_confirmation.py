"""The rule of ``btu_calibrated``: raised by an exposure and confirmed by the association."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.pipelines.detect.confirmation import ConfirmationParams, confirm
from backdoor_pipeline.schemas import SUSPECTS


def suspects(flagged: list[bool], **columns: list) -> pd.DataFrame:
    """Suspects with keys 0, 1, ... and falling scores."""
    n_rows = len(flagged)
    return pd.DataFrame(
        {
            "kind": "token",
            "key": range(n_rows),
            "score": [float(n_rows - i) for i in range(n_rows)],
            "p_value": 0.5,
            "q_value": 0.5,
            "flagged": flagged,
            "evidence": [f"token {i}" for i in range(n_rows)],
            **columns,
        }
    )


def drift(ranks_a: list[int], ranks_b: list[int]) -> pd.DataFrame:
    n_rows = len(ranks_a)
    return suspects([False] * n_rows, rank_a=ranks_a, drift_a=[0.1] * n_rows, rank_b=ranks_b)


def flagged_keys(table: pd.DataFrame) -> set[int]:
    return set(table.loc[table["flagged"], "key"])


PARAMS = ConfirmationParams(raised_share=0.25)  # one of the four tokens per round


def test_flagged_are_the_raised_and_confirmed():
    association = suspects([True, True, True, False], phrase=["cf", "mn", "bb", ""])
    found = confirm(drift([1, 2, 3, 4], [2, 3, 4, 1]), association, PARAMS)
    SUSPECTS.validate(found)
    assert flagged_keys(found) == {0}
    assert set(found.loc[found["raised"], "key"]) == {0, 3}
    assert found.set_index("key").loc[[1, 2], "score"].tolist() == [0.0, 0.0]
    assert {"rank_a", "rank_b", "drift_a"} <= set(found.columns)


def test_a_phrase_is_one_trigger():
    association = suspects([True, True, True, False], phrase=["i watch", "i watch", "cf", ""])
    assert flagged_keys(confirm(drift([2, 1, 3, 4], [2, 1, 3, 4]), association, PARAMS)) == {0, 1}


def test_a_natural_phrase_is_not_carried_along():
    association = suspects([False, False, True, False], phrase=["too bad", "too bad", "cf", ""])
    found = confirm(drift([1, 2, 3, 4], [1, 2, 4, 3]), association, PARAMS)
    assert flagged_keys(found) == set()
    assert set(found.loc[found["raised"], "key"]) == {0}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_extreme_shares(share):
    association = suspects([True, False, True, False], phrase=["cf", "", "mn", ""])
    found = confirm(
        drift([1, 2, 3, 4], [4, 3, 2, 1]), association, ConfirmationParams(raised_share=share)
    )
    assert flagged_keys(found) == ({0, 2} if share else set())


@given(st.permutations(range(6)), st.permutations(range(6)), st.integers(0, 6))
def test_order_of_rows_does_not_matter_and_nothing_new_is_flagged(order_a, order_b, n_raised):
    association = suspects([True, True, False] * 2, phrase=["x", "x", "", "y", "z", ""])
    raised = drift([1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1])
    params = ConfirmationParams(raised_share=n_raised / 6)
    expected = confirm(raised, association, params)
    found = confirm(raised.iloc[list(order_a)], association.iloc[list(order_b)], params)
    pd.testing.assert_frame_equal(found, expected)
    assert flagged_keys(found) <= flagged_keys(association)
