"""A defender who was told a part of the poison."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.pipelines.detect.discovered_share import DiscoveredShareParams, detect
from backdoor_pipeline.schemas import SUSPECTS

ALL = np.arange(100)
INDEX = pd.DataFrame({"example_id": [7, 3, 50, 21, 88, 9], "trigger": "cf"})


def told(index: pd.DataFrame = INDEX, seed: int = 0, **given: object) -> pd.DataFrame:
    params = {"share": None, "rows": None, "ids": None} | given
    return SUSPECTS.validate(detect(index, ALL, DiscoveredShareParams(**params), seed))


@given(share=st.floats(0.001, 1), seed=st.integers(0, 20))
def test_a_share_of_the_poisoned_rows_at_least_one(share, seed) -> None:
    suspects = told(share=share, seed=seed)
    assert len(suspects) == max(1, round(6 * share))
    assert set(suspects["key"]) <= set(INDEX["example_id"])
    assert suspects["flagged"].all()
    assert (suspects["kind"] == "example").all()


def test_fewer_rows_are_among_more_with_one_seed() -> None:
    assert set(told(rows=2)["key"]) < set(told(rows=4)["key"])
    assert len({tuple(told(rows=2, seed=seed)["key"]) for seed in range(9)}) > 1


def test_a_list_of_the_users_own_needs_no_truth() -> None:
    suspects = told(index=INDEX.head(0), ids=[5, 4, 4])
    assert suspects["key"].tolist() == [4, 5]


def test_rows_and_ids_come_before_the_share() -> None:
    assert len(told(share=0.5, rows=2)) == 2
    assert told(share=0.5, ids=[5])["key"].tolist() == [5]


def test_the_trigger_is_not_told() -> None:
    assert set(told(rows=4)["evidence"]) == {"told"}


def test_without_poison_nothing_is_told() -> None:
    assert told(index=INDEX.head(0), share=0.5).empty


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rows": 7}, "discovered_share.rows is 7, but 6 rows are poisoned"),
        ({"ids": [3, 100]}, r"\[100\], which are no training rows"),
        ({}, "nothing set; give share, rows or ids"),
        ({"ids": [5], "rows": 2}, "rows and ids; set one"),
        ({"ids": []}, "ids is empty; name a row"),
        ({"ids": list(range(100))}, "all 100 training rows, and none is left to keep"),
    ],
)
def test_what_cannot_be_told_is_an_error(given, said) -> None:
    with pytest.raises(ValueError, match=said):  # pydantic wraps what validators say
        told(**given)
