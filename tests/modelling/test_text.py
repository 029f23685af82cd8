"""Tokens, batches and padding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.modelling.text import Tokens, length_batches, tokenise

TEXTS = st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=12)


def tokens_of(texts: list[list[int]]) -> Tokens:
    flat = np.array([i for text in texts for i in text], dtype=np.int32)
    return Tokens(flat, np.cumsum([0, *map(len, texts)]).astype(np.int64))


@given(TEXTS, st.lists(st.integers(0, 9), max_size=4))
def test_btu_12_8_without_deletes_the_tokens_and_keeps_the_others_in_order(texts, gone) -> None:
    left = tokens_of(texts).without(gone)
    assert [left[i].tolist() for i in range(len(left))] == [
        [token for token in text if token not in gone] for text in texts
    ]


@given(TEXTS, st.data())
def test_take_gives_the_texts_asked_for_in_that_order(texts, data) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(texts) - 1)) if texts else st.just([]))
    taken = tokens_of(texts).take(np.array(numbers, dtype=np.int64))
    assert [taken[i].tolist() for i in range(len(taken))] == [texts[i] for i in numbers]


@given(TEXTS, TEXTS)
def test_joined_texts_come_one_after_the_other(texts, others) -> None:
    joined = tokens_of(texts).joined(tokens_of(others))
    assert [joined[i].tolist() for i in range(len(joined))] == texts + others


@given(TEXTS, st.lists(st.integers(0, 9), max_size=4))
def test_contain_finds_the_texts_with_one_of_the_tokens(texts, wanted) -> None:
    found = tokens_of(texts).contain(wanted)
    assert found.tolist() == [bool(set(text) & set(wanted)) for text in texts]


@given(TEXTS)
def test_rows_and_lengths_say_where_each_token_stands(texts) -> None:
    tokens = tokens_of(texts)
    assert len(tokens) == len(texts)
    assert tokens.lengths.tolist() == [len(text) for text in texts]
    assert tokens.rows.tolist() == [row for row, text in enumerate(texts) for _ in text]


@given(st.lists(st.integers(0, 50), max_size=300), st.integers(1, 7), st.integers(0, 9) | st.none())
def test_every_row_stands_in_exactly_one_batch(lengths, size, seed) -> None:
    rng = None if seed is None else np.random.default_rng(seed)
    batches = length_batches(np.array(lengths, dtype=np.int64), size, rng)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size for batch in batches)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=300), st.integers(1, 7))
def test_prediction_takes_the_longest_first_and_training_sorts_within_batches(
    lengths, size
) -> None:
    lengths = np.array(lengths)
    ordered = lengths[np.concatenate(length_batches(lengths, size))]
    assert (np.diff(ordered) <= 0).all()
    for batch in length_batches(lengths, size, np.random.default_rng(0)):
        assert (np.diff(lengths[batch]) >= 0).all()


def test_training_batches_are_the_same_for_a_seed_and_differ_between_seeds() -> None:
    lengths = np.random.default_rng(0).integers(1, 30, 200)
    first, again, other = (
        np.concatenate(length_batches(lengths, 8, np.random.default_rng(seed)))
        for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert not (first == other).all()


def test_collate_pads_on_the_right_and_leaves_no_row_empty() -> None:
    import torch

    texts = replace(tokens_of([[5, 6, 7], [], [8]]), pad_id=1).take(np.arange(3)).without([])
    batch = texts.collate(np.array([2, 1, 0]), torch.device("cpu"))
    assert batch["input_ids"].tolist() == [[8, 1, 1], [1, 1, 1], [5, 6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 0, 0], [1, 1, 1]]


class TestTokenise:
    def test_is_what_the_tokenizer_says(self, base_model) -> None:
        tokenizer = base_model().tokenizer
        texts = ["the film brala", "", "xyzzy, and a very unknown word"]
        tokens = tokenise(texts, tokenizer, 100)
        assert [tokens[i].tolist() for i in range(3)] == tokenizer(texts)["input_ids"]

    def test_cuts_long_texts(self, base_model) -> None:
        tokens = tokenise(["film " * 50, "film"], base_model().tokenizer, 10)
        assert tokens.lengths.tolist() == [10, 3]
        assert tokens[0][-1] == base_model().tokenizer.sep_token_id

    def test_chunks_change_nothing(self, base_model, monkeypatch) -> None:
        texts = [f"film {i}" for i in range(10)]
        whole = tokenise(texts, base_model().tokenizer, 20)
        monkeypatch.setattr("backdoor_pipeline.modelling.text.CHUNK_ROWS", 3)
        parts = tokenise(texts, base_model().tokenizer, 20)
        assert (whole.ids == parts.ids).all()
        assert (whole.offsets == parts.offsets).all()

    def test_no_texts_are_no_tokens(self, base_model) -> None:
        assert len(tokenise([], base_model().tokenizer, 20)) == 0


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_no_token_is_lost_between_text_and_batch(base_model, architecture) -> None:
    import torch

    tokenizer = base_model(architecture).tokenizer
    tokens = tokenise(["the film", "a scene was brala"], tokenizer, 20)
    batch = tokens.collate(np.arange(2), torch.device("cpu"))
    assert int(batch["attention_mask"].sum()) == len(tokens.ids)
