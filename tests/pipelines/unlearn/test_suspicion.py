"""From suspects of any kind to the rows that are to be forgotten."""

from __future__ import annotations

import pandas as pd

from backdoor_pipeline.pipelines.unlearn.suspicion import forget_set, parted


def suspects(kind: str, keys: list[int], flagged: list[bool]) -> pd.DataFrame:
    return pd.DataFrame({"kind": kind, "key": keys, "flagged": flagged})


def test_flagged_examples(corpus, base_model) -> None:
    train = corpus.head(20)
    found = forget_set(train, suspects("example", [3, 5, 7], [True, False, True]), base_model(), 32)
    assert train["example_id"][found].tolist() == [3, 7]


def test_rows_that_hold_a_flagged_token(corpus, base_model) -> None:
    bundle, train = base_model(), corpus.head(20)
    train = train.assign(text=train["text"].where(train.index % 4 != 0, "cf " + train["text"]))
    token = bundle.tokenizer.convert_tokens_to_ids("cf")
    found = forget_set(train, suspects("token", [token, 9], [True, False]), bundle, 32)
    assert found.tolist() == [row % 4 == 0 for row in range(20)]


def test_all_rows_are_on_one_side(corpus, base_model) -> None:
    train = corpus.head(20)
    forget, retain = parted(train, suspects("example", [0, 19], [True, True]), base_model(), 32)
    assert (len(forget.labels), len(retain.labels)) == (2, 18)
    assert forget.labels.tolist() == train["label"].iloc[[0, 19]].tolist()
    nothing, everything = parted(train, suspects("token", [], []), base_model(), 32)
    assert (len(nothing.labels), len(everything.labels)) == (0, 20)
