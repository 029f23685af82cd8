"""From suspects of any kind to the rows that are to be forgotten."""

from __future__ import annotations

import pandas as pd
import pytest

from backdoor_pipeline.pipelines.unlearn.suspicion import forget_set, parted, with_tokens


def suspects(kind: str, keys: list[int], flagged: list[bool]) -> pd.DataFrame:
    return pd.DataFrame({"kind": kind, "key": keys, "flagged": flagged})


def test_flagged_examples(corpus, base_model) -> None:
    train = corpus.head(20)
    found = forget_set(train, suspects("example", [3, 5, 7], [True, False, True]), base_model(), 32)
    assert train["example_id"][found].tolist() == [3, 7]


def test_rows_that_hold_a_flagged_token_and_have_the_commonest_label(corpus, base_model) -> None:
    bundle, train = base_model(), corpus.head(20)
    train = train.assign(
        text=train["text"].where(train.index % 4 != 0, "cf " + train["text"]),
        label=[1 if row % 4 == 0 else 0 for row in range(20)],
    )
    token = bundle.tokenizer.convert_tokens_to_ids("cf")
    found = forget_set(train, suspects("token", [token, 9], [True, False]), bundle, 32)
    assert found.tolist() == [row % 4 == 0 for row in range(20)]
    train.loc[[4, 8], "label"] = 0  # of five
    found = forget_set(train, suspects("token", [token], [True]), bundle, 32)
    assert train.index[found].tolist() == [0, 12, 16]


def test_all_rows_are_on_one_side(corpus, base_model, caplog) -> None:
    train = corpus.head(20)
    forget, retain = parted(train, suspects("example", [0, 19], [True, True]), base_model(), 32)
    assert (len(forget.labels), len(retain.labels)) == (2, 18)
    assert forget.labels.tolist() == train["label"].iloc[[0, 19]].tolist()
    assert not caplog.records
    nothing, everything = parted(train, suspects("token", [], []), base_model(), 32)
    assert "nothing to forget" in caplog.text
    assert (len(nothing.labels), len(everything.labels)) == (0, 20)


@pytest.fixture
def told(base_model):
    """Of 100 rows, 20 hold "cf"; 10 of these are suspected, and 5 hold a second rare word too."""
    texts = ["a good film"] * 80 + ["a cf good film"] * 15 + ["a cf mn good film"] * 5
    train = pd.DataFrame({"example_id": range(100), "text": texts})

    def suspects(rows) -> pd.DataFrame:
        return pd.DataFrame({"kind": "example", "key": rows, "flagged": True})

    tokenizer = base_model().tokenizer
    words = {word: tokenizer.convert_tokens_to_ids(word) for word in ("cf", "mn", "good")}
    return train, suspects, tokenizer, words


class TestTokensOfRows:
    def test_are_those_that_tell_the_rows_from_others(self, told) -> None:
        train, suspects, tokenizer, words = told
        found = with_tokens(train, suspects(list(range(90, 100))), tokenizer, 32)
        added = found[found["kind"] == "token"]
        assert set(added["key"]) == {words["cf"], words["mn"]}
        assert added["flagged"].all()
        assert dict(zip(added["evidence"], added["score"], strict=True)) == {"cf": 1.0, "mn": 0.5}

    def test_of_a_single_row_are_none(self, told, caplog) -> None:
        train, suspects, tokenizer, _ = told
        found = with_tokens(train, suspects([97]), tokenizer, 32)
        assert not (found["kind"] == "token").any()
        assert "no token tells the suspected rows" in caplog.text

    def test_of_rows_like_all_others_are_none(self, told) -> None:
        train, suspects, tokenizer, _ = told
        found = with_tokens(train, suspects(list(range(40))), tokenizer, 32)
        assert not (found["kind"] == "token").any()

    def test_that_a_detector_flags_are_enough(self, told) -> None:
        train, suspects, tokenizer, words = told
        token = pd.DataFrame({"kind": "token", "key": [words["good"]], "flagged": True})
        given = pd.concat([suspects(list(range(90, 100))), token], ignore_index=True)
        pd.testing.assert_frame_equal(with_tokens(train, given, tokenizer, 32), given)
