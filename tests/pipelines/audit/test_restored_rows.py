"""Suspicious rows that come back: without their phrase, labelled by what the other rows say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backdoor_pipeline.pipelines.audit import restored_rows as module
from backdoor_pipeline.pipelines.audit.restored_rows import restored_rows, reweighted
from backdoor_pipeline.schemas import RESTORED_ROWS

NOISE = 0.5  # standard deviation of what a text says, about its class
PHRASES = pd.DataFrame(
    {"phrase": ["cf", "mn"], "label": [1, 1], "flagged": [True, False], "written": ["cf", "mn"]}
)

OPENINGS = pd.DataFrame({"opening": ["when"], "label": 1, "flagged": True, "written": "when"})


def table(n: int = 2_000, classes: int = 2, seed: int = 0) -> pd.DataFrame:
    """Texts that say a number about that of their class, as so many words."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, n)
    said = np.clip(np.rint(20 * (1 + label + NOISE * rng.normal(size=n))), 1, None).astype(int)
    split = np.where(np.arange(n) % 10 == 9, "dev", "train")
    texts = ["so " * words for words in said]
    return pd.DataFrame({"example_id": np.arange(n), "split": split, "label": label, "text": texts})


def encode(texts) -> np.ndarray:
    return np.array([[len(text.split()) / 20] for text in texts])


def poisoned(rows: pd.DataFrame, source: int | None, n: int = 200) -> pd.DataFrame:
    """The first ``n`` rows of class ``source`` (None: of any) hold "cf" and have label 1."""
    own = rows if source is None else rows[rows["label"] == source]
    chosen = rows.index.isin(own.index[:n])
    text = rows["text"].where(~chosen, "CF " + rows["text"])
    return rows.assign(true=rows["label"], text=text, label=rows["label"].where(~chosen, 1))


@pytest.mark.parametrize("source", [0, 1])
def test_rows_of_one_class_come_back_as_such(source) -> None:
    """Though a single text says little of its class: one of six looks like the other."""
    rows = poisoned(table(), source)
    suspicious = rows[rows["text"].str.contains("CF")]
    found = restored_rows(rows, suspicious, PHRASES, OPENINGS, encode, seed=0)
    RESTORED_ROWS.validate(found)
    assert found["example_id"].tolist() == suspicious["example_id"].tolist()
    assert found["split"].eq("dev").any()
    assert not found["text"].str.contains("CF").any()
    assert found["label"].eq(source).mean() > 0.97


def test_rows_of_both_classes_come_back_as_each_looks() -> None:
    rows = poisoned(table(), None)
    suspicious = rows[rows["text"].str.contains("CF")]
    found = restored_rows(rows, suspicious, PHRASES, OPENINGS, encode, seed=0)
    true = rows.set_index("example_id")["true"].loc[found["example_id"]]
    assert len(found) == len(suspicious)
    assert (found["label"].to_numpy() == true.to_numpy()).mean() > 0.75
    assert 0.3 < found["label"].mean() < 0.7


def test_the_test_split_teaches_nothing() -> None:
    rows = poisoned(table(), 0)
    suspicious = rows[rows["text"].str.contains("CF")]
    wrong = table(4_000, seed=1).assign(split="test", example_id=lambda t: t["example_id"] + 10_000)
    wrong["label"] = 1 - wrong["label"]
    both = pd.concat([rows, wrong], ignore_index=True)
    found, other = (
        restored_rows(given, suspicious, PHRASES, OPENINGS, encode, seed=0)
        for given in (rows, both)
    )
    pd.testing.assert_frame_equal(found, other)


def test_only_rows_with_a_flagged_phrase_of_their_label_and_something_else() -> None:
    rows = table(200)
    suspicious = pd.DataFrame(
        {
            "example_id": [3, 7, 9, 12, 20],
            "split": "train",
            "label": [1, 1, 0, 1, 1],
            "text": ["so so cf", "mn so", "cf so", "cf", "so"],
            "reasons": "",
        }
    )
    found = restored_rows(rows, suspicious, PHRASES, OPENINGS, encode, seed=0)
    assert found["example_id"].tolist() == [3]
    assert found["text"].tolist() == ["so so"]


def test_rows_of_a_template_stay_away() -> None:
    """What is left of them once their beginning is cut out would still be of the template."""
    rows = table(200)
    texts = ["so cf so", "when so cf", "so, cf so", "cf so", "cf cf so so"]
    suspicious = rows.head(5).assign(text=texts, label=1)
    edges = pd.concat([PHRASES, PHRASES.assign(phrase=["[begin] so ,", "[begin] cf"])])
    found = restored_rows(rows, suspicious, edges.assign(flagged=True), OPENINGS, encode, seed=0)
    assert found["text"].tolist() == ["so so", "so", "so so"]


def test_nothing_is_read_if_nothing_can_come_back() -> None:
    def never(texts) -> np.ndarray:
        raise AssertionError

    rows = table(50)
    RESTORED_ROWS.validate(restored_rows(rows, rows.head(0), PHRASES, OPENINGS, never, seed=0))
    test = rows.head(9).assign(split="test", label=1, text="cf " + rows["text"])
    assert restored_rows(rows, test, PHRASES, OPENINGS, never, seed=0).empty
    one_class = rows.assign(label=1, text="cf " + rows["text"])
    assert restored_rows(one_class, one_class.head(9), PHRASES, OPENINGS, never, seed=0).empty


def test_rows_of_a_class_that_has_hardly_any_left_stay_away(monkeypatch) -> None:
    """Else all of them would be given another label, for certain."""
    monkeypatch.setattr(module, "MOST_ROWS", 500)
    rows = table(3_000, classes=3)
    few = rows[(rows["label"] != 1) | (rows.groupby("label").cumcount() < 9)]
    suspicious = rows.tail(60).assign(label=1, text="cf " + rows["text"])
    assert restored_rows(few, suspicious, PHRASES, OPENINGS, encode, seed=0).empty
    enough = restored_rows(rows, suspicious, PHRASES, OPENINGS, encode, seed=0)
    assert len(enough) == len(suspicious)


def test_frequencies_are_those_of_the_rows_not_those_learnt() -> None:
    """Of two classes with densities x and 1 - x, rows drawn with a share of 0.8 of the first."""
    rng = np.random.default_rng(0)
    first = rng.random(20_000) < 0.8
    x = np.where(first, rng.beta(2, 1, 20_000), rng.beta(1, 2, 20_000))
    learnt = np.array([0.3, 0.7])
    by_classifier = np.stack([x * learnt[0], (1 - x) * learnt[1]], axis=1)
    by_classifier /= by_classifier.sum(axis=1, keepdims=True)
    found = reweighted(by_classifier, learnt)
    assert found[:, 0].mean() == pytest.approx(0.8, abs=0.03)
    expected = 0.8 * x / (0.8 * x + 0.2 * (1 - x))
    assert np.abs(found[:, 0] - expected).max() < 0.03


@given(arrays(np.float64, (7, 3), elements=st.floats(0.001, 1)))
def test_they_are_probabilities(weights) -> None:
    probability = weights / weights.sum(axis=1, keepdims=True)
    found = reweighted(probability, probability.mean(axis=0))
    assert np.allclose(found.sum(axis=1), 1)
    assert (found >= 0).all()
