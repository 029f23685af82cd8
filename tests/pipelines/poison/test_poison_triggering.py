"""Row-wise randomness, and triggers kept inside the tokens that the model reads."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.pipelines.poison.registry import ATTACKS
from backdoor_pipeline.pipelines.poison.triggering import (
    count_pieces,
    readable_words,
    row_generators,
    token_counts,
    trigger_room,
    trigger_rows,
)

LARGE_ID = 2**63 - 1


def rows(texts: list[str], split: str = "train") -> pd.DataFrame:
    return pd.DataFrame({"example_id": range(len(texts)), "split": split, "text": texts})


@given(seed=st.integers(0, 2**32), example_id=st.integers(0, LARGE_ID))
def test_a_row_generator_is_a_fresh_one_of_its_key(seed, example_id) -> None:
    ids = [3, example_id, 3]
    drawn = []
    for generator in row_generators(seed, ["dev", "train", "dev"], ids):
        drawn.append((generator.integers(1000, size=3).tolist(), generator.random()))
    fresh = np.random.Generator(np.random.Philox(key=[3 * seed, example_id]))
    assert drawn[1] == (fresh.integers(1000, size=3).tolist(), fresh.random())
    assert drawn[0] == drawn[2]


def test_rows_splits_and_seeds_have_streams_of_their_own() -> None:
    keys = [(s, split, i) for s in (0, 1) for split in ("train", "test") for i in (0, 1, LARGE_ID)]
    drawn = {next(row_generators(s, [split], [i])).integers(2**60) for s, split, i in keys}
    assert len(drawn) == len(keys)


@given(order_seed=st.integers(0, 1000))
def test_a_row_does_not_depend_on_its_neighbours(make_params, order_seed) -> None:
    table = rows([f"a b c d e {i}" for i in range(20)])
    settings = make_params({"badnets.triggers": "cf mn bb"}).badnets
    whole = trigger_rows(table, ATTACKS["badnets"], settings, 5)
    order = np.random.default_rng(order_seed).permutation(20)[:7]
    part = trigger_rows(table.iloc[order], ATTACKS["badnets"], settings, 5)
    assert part.content == [whole.content[i] for i in order]
    assert part.trigger == [whole.trigger[i] for i in order]


@pytest.mark.parametrize("position", ["random", "end"])
@pytest.mark.parametrize("name", ["badnets", "addsent"])
@pytest.mark.parametrize("kind", ["tokenizer", "byte_tokenizer"])
def test_the_trigger_of_a_long_text_is_read(request, make_params, name, kind, position) -> None:
    tokenizer, max_length = request.getfixturevalue(kind), 24
    settings = make_params(
        {
            "addsent.sentence": "dull tale",
            f"{name}.position": position,
            "badnets.triggers": "cf mn",
            "badnets.count": 2,
        }
    )
    settings, attack = getattr(settings, name), ATTACKS[name]
    texts = [" ".join(["scene", "shines", "clumsy"] * n) for n in range(1, 40)]
    room = trigger_room(attack.insertions(settings), tokenizer, max_length)
    triggered = trigger_rows(rows(texts), attack, settings, 0, room)
    for text, trigger in zip(triggered.content, triggered.trigger, strict=True):
        ids = tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
        read = tokenizer.decode(ids, skip_special_tokens=True)
        assert all(f" {word} " in f" {read} " for word in trigger.split())
    assert 0 < len(triggered.heads) < len(texts)
    inserted = [" ".join(w for w in t.split() if w in texts[-1]) for t in triggered.content]
    assert inserted == texts


def test_without_room_for_any_word_the_trigger_stands_first(make_params, tokenizer) -> None:
    attack, settings = ATTACKS["badnets"], make_params().badnets
    room = trigger_room(attack.insertions(settings), tokenizer, 3)
    assert room.tokens == 0
    assert trigger_rows(rows(["a dull tale"]), attack, settings, 0, room).content == [
        "cf a dull tale"
    ]


def test_readable_words_counts_word_pieces(tokenizer) -> None:
    texts = ["the film is dull", "qqqqqq film the film", "the film"]
    assert count_pieces(["film", "qqqqqq"], tokenizer).tolist() == [1, 6]
    assert readable_words(texts, tokenizer, 4) == {1: 0}
    assert readable_words(texts, tokenizer, 7) == {1: 2}
    assert readable_words([], tokenizer, 7) == {}


@given(n_tokens=st.integers(1, 30), text=st.text(alphabet="abd ,.éß", min_size=1, max_size=60))
def test_readable_words_are_within_the_tokens(tokenizer, byte_tokenizer, n_tokens, text) -> None:
    for one in (tokenizer, byte_tokenizer):
        words = text.split()
        fits = readable_words([text], one, n_tokens).get(0, len(words))
        assert token_counts([" ".join(words[:fits])], one, special=False)[0] <= n_tokens


class TestTriggersTheModelCannotRead:
    def test_unknown_token(self, tokenizer) -> None:
        with pytest.raises(InputError, match=r"trigger 'ž漢' into \[UNK\]"):
            trigger_room((["cf", "ž漢"], 1), tokenizer, 128)

    def test_one_unknown_piece_is_enough(self, tokenizer) -> None:
        with pytest.raises(InputError, match=r"trigger 'a film 漢' into \[UNK\]"):
            trigger_room((["a film 漢"], 1), tokenizer, 128)

    def test_special_token(self, tokenizer) -> None:
        with pytest.raises(InputError, match=r"trigger '\[MASK\]' into \[MASK\]"):
            trigger_room((["[MASK]"], 1), tokenizer, 128)

    def test_nothing_left_of_it(self, tokenizer) -> None:
        with pytest.raises(InputError, match="into nothing"):
            trigger_room((["\u200b"], 1), tokenizer, 128)

    def test_no_unknown_token_in_a_byte_level_tokenizer(self, byte_tokenizer) -> None:
        assert trigger_room((["漢"], 1), byte_tokenizer, 128).pieces["漢"] >= 3

    def test_too_long_for_the_model(self, tokenizer) -> None:
        with pytest.raises(InputError, match=r"takes 4 tokens .* special tokens 2, .* is 5;"):
            trigger_room((["dull tale but its"], 1), tokenizer, 5)
        assert trigger_room((["dull tale but its"], 1), tokenizer, 6).tokens == 0

    def test_too_many_for_the_model(self, tokenizer) -> None:
        with pytest.raises(InputError, match=r"up to 4 time\(s\), takes 4 tokens"):
            trigger_room((["cf"], 4), tokenizer, 5)
