from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.pipelines.ingest.labels import numbered


def number(labels: list, names: tuple[str, ...] | None = None) -> tuple[list[int], list[str]]:
    rows, found = numbered(pd.DataFrame({"label": labels}), names, "mine")
    assert rows["label"].dtype == "int64"
    return rows["label"].tolist(), found


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        ([1, 0, 1], [1, 0, 1], ["0", "1"]),
        ([10, 2, -1], [2, 1, 0], ["-1", "2", "10"]),
        ([" 1", "0 ", "1"], [1, 0, 1], ["0", "1"]),
        ([1.0, 0.0], [1, 0], ["0", "1"]),
        (["1.0", "0"], [1, 0], ["0", "1"]),
        (["4.5", "10", "5"], [0, 2, 1], ["4.5", "5", "10"]),
        ([True, False], [1, 0], ["False", "True"]),
        (["pos", " neg", "pos"], [1, 0, 1], ["neg", "pos"]),
        (["spam", 1], [1, 0], ["1", "spam"]),
        (["1_0", "9"], [0, 1], ["1_0", "9"]),
        ([2**64 + 1, 2**64], [1, 0], [str(2**64), str(2**64 + 1)]),
        (["inf", "b"], [1, 0], ["b", "inf"]),
    ],
)
def test_any_label_type_becomes_class_numbers(labels: list, numbers: list, names: list) -> None:
    assert number(labels) == (numbers, names)


def test_given_names_keep_their_numbers() -> None:
    assert number([1, 1], ("neg", "pos")) == ([1, 1], ["neg", "pos"])
    with pytest.raises(InputError, match=r"^mine: label '2' is unknown"):
        number([0, 2], ("neg", "pos"))


@given(st.lists(st.one_of(st.integers(), st.text(min_size=1).filter(str.strip)), min_size=1))
def test_numbers_are_contiguous_and_stand_for_their_names(labels: list) -> None:
    numbers, names = number(labels[:20])
    assert sorted(set(numbers)) == list(range(len(names)))
    for label, found in zip(labels[:20], numbers, strict=True):
        written = str(label).strip()
        assert names[found] == written or float(names[found]) == float(written)


def test_numpy_labels_are_read() -> None:
    assert number(list(np.array([True, False])))[1] == ["False", "True"]
