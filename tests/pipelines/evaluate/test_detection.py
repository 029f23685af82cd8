"""Suspects against the truth."""

from __future__ import annotations

import pandas as pd
import pytest

from backdoor_pipeline.pipelines.evaluate.detection import (
    detection_metrics,
    isolation_metrics,
    trigger_token_ids,
)


@pytest.fixture
def tokenizer(base_model):
    return base_model().tokenizer


def poison_of(*rows: tuple[str, str]) -> pd.DataFrame:
    """Poisoned rows: text and trigger each."""
    texts, triggers = zip(*rows, strict=True) if rows else ((), ())
    return pd.DataFrame(
        {"example_id": range(len(rows)), "text": list(texts), "trigger": list(triggers)}
    ).astype({"text": "str", "trigger": "str", "example_id": "int64"})


def suspects_of(keys, scores, flagged, kind: str = "token") -> pd.DataFrame:
    return pd.DataFrame({"kind": kind, "key": keys, "score": scores, "flagged": flagged})


def ids_of(tokenizer, *words: str) -> list[int]:
    return [i for word in words for i in tokenizer(word, add_special_tokens=False)["input_ids"]]


class TestTriggerTokens:
    def test_of_words_and_sentences(self, tokenizer) -> None:
        poison = poison_of(("a cf film", "cf"), ("i watch film", "i watch"), ("mn cf", "mn cf"))
        expected = set(ids_of(tokenizer, "cf", "mn", "i", "watch"))
        assert set(trigger_token_ids(poison, tokenizer)) == expected

    def test_of_word_pieces(self, tokenizer) -> None:
        poison = poison_of(("a cfx film", "cfx"))
        assert trigger_token_ids(poison, tokenizer) == sorted(ids_of(tokenizer, "cfx"))

    def test_a_style_inserts_none(self, tokenizer) -> None:
        assert trigger_token_ids(poison_of(("lo the film", "bible")), tokenizer) == []

    def test_of_two_byte_level_forms_the_one_in_the_texts(self, base_model) -> None:
        tokenizer = base_model("gpt2").tokenizer
        inside, first = ("a mn film", "mn"), ("mn film", "mn")
        blank, bare = ids_of(tokenizer, " mn"), ids_of(tokenizer, "mn")
        assert set(trigger_token_ids(poison_of(inside, inside, first), tokenizer)) == set(blank)
        assert set(trigger_token_ids(poison_of(first, first, inside), tokenizer)) == set(bare)


class TestTokenMetrics:
    def test_rank_recall_and_false_alarms(self, tokenizer) -> None:
        (cf,), (mn,) = ids_of(tokenizer, "cf"), ids_of(tokenizer, "mn")
        others = ids_of(tokenizer, "film", "scene")
        poison = poison_of(("a cf film", "cf"), ("mn film", "mn"))
        suspects = suspects_of([cf, *others, mn], [0.5, 0.9, 0.1, 0.3], [True, True, False, False])
        metrics = detection_metrics(suspects, poison, tokenizer, 10)
        assert metrics == {
            "precision": 0.5,
            "recall": 0.5,
            "auroc": 0.5,
            "trigger_recall": 0.5,
            "trigger_rank": 2,
            "trigger_tokens": 2,
            "flagged": 2,
            "false_alarms": 1,
            "trigger_recall_at_1": 0.0,
            "trigger_recall_at_5": 1.0,
            "trigger_recall_at_15": 1.0,
        }

    def test_a_control_run_knows_false_alarms_alone(self, tokenizer) -> None:
        suspects = suspects_of([40, 41], [2.0, 1.0], [True, False])
        metrics = detection_metrics(suspects, poison_of(), tokenizer, 10)
        assert (metrics["flagged"], metrics["false_alarms"], metrics["precision"]) == (1, 1, 0.0)
        assert metrics["recall"] is metrics["auroc"] is metrics["trigger_rank"] is None
        assert metrics["trigger_recall_at_1"] is None

    def test_of_own_data_nobody_knows_what_is_false(self, tokenizer) -> None:
        suspects = suspects_of([40, 41], [2.0, 1.0], [True, False])
        metrics = detection_metrics(suspects, poison_of(), tokenizer, 10, known_clean=False)
        assert metrics["flagged"] == 1
        assert metrics["false_alarms"] is metrics["precision"] is None

    def test_a_style_attack_has_no_true_tokens(self, tokenizer) -> None:
        suspects = suspects_of([40], [2.0], [True])
        metrics = detection_metrics(suspects, poison_of(("lo film", "bible")), tokenizer, 10)
        assert metrics["precision"] is metrics["false_alarms"] is metrics["trigger_recall"] is None

    def test_no_suspects_at_all(self, tokenizer) -> None:
        empty = suspects_of([], [], []).astype({"key": "int64", "score": float, "flagged": bool})
        metrics = detection_metrics(empty, poison_of(("a cf", "cf")), tokenizer, 10)
        assert metrics["trigger_recall"] == 0
        assert metrics["trigger_rank"] is metrics["precision"] is metrics["auroc"] is None

    def test_a_trigger_that_no_row_lists_has_no_rank(self, tokenizer) -> None:
        suspects = suspects_of([40], [2.0], [False])
        metrics = detection_metrics(suspects, poison_of(("a cf", "cf")), tokenizer, 10)
        assert metrics["trigger_rank"] is None
        assert metrics["trigger_recall_at_15"] == 0


def test_example_detectors_are_held_against_the_poisoned_rows(tokenizer) -> None:
    poison = poison_of(("a cf film", "cf"), ("film cf", "cf"))  # rows 0 and 1
    suspects = suspects_of(
        [0, 1, 2, 3], [0.9, 0.2, 0.8, 0.1], [True, False, True, False], "example"
    )
    metrics = detection_metrics(suspects, poison, tokenizer, 4)
    assert (metrics["precision"], metrics["recall"], metrics["auroc"]) == (0.5, 0.5, 0.75)
    assert metrics["flagged_share"] == 0.5
    assert metrics["trigger_recall"] is metrics["trigger_tokens"] is None


@pytest.mark.parametrize("n_poisoned", [0, 2])
def test_without_a_tokenizer_no_suspects_are_no_examples(n_poisoned) -> None:
    index = pd.DataFrame({"example_id": [3, 5], "trigger": "patch"}).head(n_poisoned)
    empty = suspects_of([], [], []).astype({"key": "int64", "score": float, "flagged": bool})
    metrics = detection_metrics(empty, index, None, 10)
    assert (metrics["flagged"], metrics["false_alarms"], metrics["flagged_share"]) == (0, 0, 0)
    assert metrics["recall"] == (0 if n_poisoned else None)
    assert metrics["trigger_tokens"] is metrics["trigger_recall"] is metrics["precision"] is None


def test_isolated_rows_against_the_poisoned_ones() -> None:
    poisoned = pd.Series([3, 5, 8, 9])
    found = isolation_metrics([3, 4, 5], poisoned)
    assert found == {"rows": 3, "precision": pytest.approx(2 / 3), "recall": 0.5}
    assert isolation_metrics([], poisoned) == {"rows": 0, "precision": None, "recall": 0}
    nothing = isolation_metrics([3], poisoned.head(0))
    assert nothing == {"rows": 1, "precision": None, "recall": None}
