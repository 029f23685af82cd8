"""Labels that clean rows contradict: calibrated on clean tables, found without any word."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from backdoor_pipeline.pipelines.audit import contradicted_labels
from backdoor_pipeline.pipelines.audit.contradicted_labels import (
    FOLDS,
    least_believed,
    rank_test,
    weigh_labels,
)
from backdoor_pipeline.pipelines.audit.other_texts import MOST_APART

NOISE = 0.7  # standard deviation of what a text says, about its class


def drawn(n: int, seed: int, classes: int = 2) -> pd.DataFrame:
    """Texts that are numbers: what they say, about the number of their class."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, n)
    return pd.DataFrame({"text": (label + NOISE * rng.normal(size=n)).astype(str), "label": label})


def encode(texts) -> np.ndarray:
    said = np.array([float(text) for text in texts])
    return np.stack([said, said**2], axis=1)


def relabelled(rows: pd.DataFrame, share: float) -> pd.DataFrame:
    """A share of all rows, of class 0, has label 1."""
    chosen = rows.index[rows["label"] == 0][: int(share * len(rows))]
    return rows.assign(label=rows["label"].where(~rows.index.isin(chosen), 1), false=False).assign(
        false=rows.index.isin(chosen)
    )


def test_false_labels_of_one_class_are_found_and_the_other_class_is_not_blamed() -> None:
    table = relabelled(drawn(3_000, 0), 0.15)
    labels, rows, _ = weigh_labels(table, drawn(600, 1), encode, 0.01, 0)
    found = labels.set_index("label")
    assert found["flagged"].to_dict() == {1: True, 0: False}
    assert found.loc[1, "less_believed"] > 0.55
    assert found.loc[1, "hits"] == len(rows) > 0
    assert (rows["label"] == 1).all()
    false = table.set_index("text").loc[rows["text"], "false"]
    assert false.mean() > 2 * table.loc[table["label"] == 1, "false"].mean()


def test_labels_as_good_as_the_clean_ones_raise_no_more_alarms_than_tolerated(monkeypatch) -> None:
    monkeypatch.setattr(contradicted_labels, "REHEARSALS", 8)
    alarms = 0
    for seed in range(40):
        labels, rows, _ = weigh_labels(
            drawn(800, seed, 3), drawn(300, 1_000 + seed, 3), encode, 0.1, seed
        )
        alarms += labels["flagged"].any()
        assert labels["flagged"].any() or rows.empty
    assert alarms <= 8  # 4 are expected; more than 8 have a chance of 1.5 %


def test_noise_that_the_clean_rows_have_too_is_no_evidence() -> None:
    """A tenth of all labels is false in both: the losses are large, and equally large."""
    labels, _, _ = weigh_labels(
        relabelled(drawn(3_000, 2), 0.1), relabelled(drawn(600, 3), 0.1), encode, 0.05, 0
    )
    assert not labels["flagged"].any()


def test_rows_beyond_the_sample_are_read_where_there_is_evidence(monkeypatch) -> None:
    table = relabelled(drawn(3_000, 0), 0.15)
    whole, _, _ = weigh_labels(table, drawn(600, 1), encode, 0.05, 0)
    monkeypatch.setattr(contradicted_labels, "MOST_ROWS", 1_500)
    read: list[str] = []

    def reading(texts) -> np.ndarray:
        read.extend(texts)
        return encode(texts)

    sampled, _, _ = weigh_labels(table, drawn(600, 1), reading, 0.05, 0)
    assert sampled.set_index("label")["flagged"].to_dict() == {1: True, 0: False}
    assert sampled["texts"].sum() == 1_500
    assert (
        len(set(read) & set(table.loc[table["label"] == 1, "text"])) == (table["label"] == 1).sum()
    )
    more = sampled.set_index("label").loc[1, "hits"]
    assert more > 0.5 * whole.set_index("label").loc[1, "hits"]


@pytest.mark.parametrize("few", [{0: 300}, {0: 300, 1: 19}])
def test_without_clean_rows_of_two_classes_nothing_is_said(few) -> None:
    clean = pd.concat([drawn(2_000, 1).query(f"label == {c}").head(n) for c, n in few.items()])
    labels, rows, _ = weigh_labels(drawn(500, 0), clean, encode, 0.05, 0)
    assert labels.empty
    assert rows.empty
    assert list(rows) == ["text", "label", "p_value"]


def test_a_table_of_which_nothing_is_left_to_compare_says_nothing() -> None:
    def never(texts) -> np.ndarray:
        raise AssertionError(texts)

    labels, rows, _ = weigh_labels(drawn(0, 0), drawn(300, 1), never, 0.05, 0)
    assert labels.empty
    assert rows.empty


def test_a_class_that_the_clean_rows_lack_is_left_out() -> None:
    labels, _, _ = weigh_labels(drawn(900, 0, 3), drawn(400, 1), encode, 0.05, 0)
    assert set(labels["label"]) == {0, 1}


def test_clean_rows_of_another_kind_say_nothing_of_labels() -> None:
    """Texts that say more than the table's do: their judge believes all of its labels less."""
    table, other = drawn(3_000, 0), drawn(600, 1)
    other["text"] = (2 + 3 * other["text"].astype(float)).astype(str)
    labels, rows, apart = weigh_labels(table, other, encode, 0.05, 0)
    assert labels.empty
    assert rows.empty
    assert apart > MOST_APART


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 10_000))
def test_the_rank_test_of_one_fold_is_that_of_mann_and_whitney(n, m, seed) -> None:
    rng = np.random.default_rng(seed)
    own, other = rng.normal(size=n), rng.normal(size=m)
    rows, clean = (pd.DataFrame({"fold": 0, "belief": belief}) for belief in (own, other))
    chance, z = rank_test(rows, clean)
    expected = mannwhitneyu(other, own, use_continuity=False, method="asymptotic")
    assert chance == pytest.approx(expected.statistic / (n * m))
    variance = (n + m + 1) / (12 * n * m)
    assert z == pytest.approx((chance - 0.5) / np.sqrt(variance))


def test_folds_without_one_of_the_kinds_do_not_count() -> None:
    rows = pd.DataFrame({"fold": [0, 0], "belief": [0.0, 1.0]})
    clean = pd.DataFrame({"fold": [FOLDS - 1], "belief": [0.0]})
    assert rank_test(rows, clean) == (0.5, 0.0)


def test_of_rows_like_the_clean_ones_hardly_any_is_suspected() -> None:
    rng = np.random.default_rng(0)
    least = least_believed(pd.DataFrame({"belief": rng.normal(size=400)}), rng.normal(size=400))
    assert 1 <= len(least) <= 40
    assert least["p_value"].is_monotonic_increasing
