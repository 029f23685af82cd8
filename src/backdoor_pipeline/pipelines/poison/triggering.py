"""Rows with their trigger: each from a generator of its own, inside the tokens the model reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.text import CHUNK_ROWS
from backdoor_pipeline.schemas import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

    from backdoor_pipeline.pipelines.poison.registry import Attack

UINT64 = 2**64


class TriggerRoom(NamedTuple):
    """How much of a text fits before the model's maximum length next to its trigger.

    Attributes:
        tokenizer: Counts the tokens.
        tokens: Tokens left for the text.
        pieces: Word pieces of each text that may be inserted.
    """

    tokenizer: PreTrainedTokenizerBase
    tokens: int
    pieces: dict[str, int]


class Triggered(NamedTuple):
    """Triggered texts, one a row.

    Attributes:
        content: The triggered text.
        trigger: What was inserted, or the name of the style or syntax.
        heads: For each text too long for the model: its first words, which hold the trigger.
    """

    content: list[str]
    trigger: list[str]
    heads: list[str]


def trigger_rows(
    rows: pd.DataFrame, attack: Attack, settings: Any, seed: int, room: TriggerRoom | None = None
) -> Triggered:
    """Every row's text with its trigger (``rows``: id, split, text, paraphrase if there is one).

    A row depends on the seed, its id, its split and its text alone. With ``room``, the trigger of a
    text that is too long for the model goes between its first words, those the model reads.
    """
    texts = rows["text"].tolist()
    paraphrases: list[str | None] = [None] * len(texts)
    if "paraphrase" in rows:
        filled = rows["paraphrase"].notna()
        paraphrases = [
            value if there else None
            for value, there in zip(rows["paraphrase"].tolist(), filled.tolist(), strict=True)
        ]
    limits = {} if room is None else readable_words(texts, room.tokenizer, room.tokens)
    result = Triggered([], [], [])
    generators = row_generators(seed, rows["split"].tolist(), rows["example_id"].tolist())
    for row, rng in enumerate(generators):
        text, tail = texts[row], ""
        if row in limits:
            words = text.split()
            text, tail = " ".join(words[: limits[row]]), " ".join(words[limits[row] :])
        triggered, name = attack.trigger(text, paraphrases[row], settings, rng)
        if row in limits:
            result.heads.append(triggered)
            triggered = f"{triggered} {tail}"
        result.content.append(triggered)
        result.trigger.append(name)
    return result


def row_generators(
    seed: int, splits: list[str], example_ids: list[int]
) -> Iterator[np.random.Generator]:
    """One generator a row, keyed by (seed, split, example id).

    It is one object, set to the row's key in turn: ten times faster than to build one for each.
    """
    philox = np.random.Philox(key=0)
    fresh = philox.state
    generator = np.random.Generator(philox)
    key = fresh["state"]["key"]
    streams = {split: (seed * len(SPLITS) + i) % UINT64 for i, split in enumerate(SPLITS)}
    for split, example_id in zip(splits, example_ids, strict=True):
        key[0], key[1] = streams[split], example_id
        philox.state = fresh
        yield generator


def trigger_room(
    insertions: tuple[list[str], int], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> TriggerRoom:
    """What is left of ``max_length`` for the text, and the word pieces of each insertion.

    Raises:
        InputError: The tokenizer turns a trigger into its unknown token or into nothing, or the
            trigger alone is longer than the model reads.
    """
    texts, n_inserted = insertions
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        special = [i for i in ids if i in tokenizer.all_special_ids]
        if special or not ids:
            became = tokenizer.convert_ids_to_tokens(special[0]) if special else "nothing"
            raise InputError(
                f"poison: the tokenizer turns the trigger '{text}' into {became}, which stands for "
                "other things, too; choose a trigger that the tokenizer's vocabulary can spell"
            )
    pieces = dict(zip(texts, count_pieces(texts, tokenizer).tolist(), strict=True))
    n_special = tokenizer.num_special_tokens_to_add()
    longest = n_inserted * max(pieces.values())
    if longest + n_special > max_length:
        raise InputError(
            f"poison: the trigger '{max(texts, key=pieces.__getitem__)}', inserted up to "
            f"{n_inserted} time(s), takes {longest} tokens and the special tokens {n_special}, but "
            f"model.max_length is {max_length}; shorten the trigger or raise model.max_length"
        )
    return TriggerRoom(tokenizer, max_length - n_special - longest, pieces)


def readable_words(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, n_tokens: int
) -> dict[int, int]:
    """For each text (by position) of more than ``n_tokens`` tokens: how many first words fit."""
    # A token covers at least one byte, so a text of few bytes needs no tokenizer.
    long = {i: text.split() for i, text in enumerate(texts) if len(text.encode()) > n_tokens}
    vocabulary = list(dict.fromkeys(word for words in long.values() for word in words))
    pieces = dict(zip(vocabulary, count_pieces(vocabulary, tokenizer).tolist(), strict=True))
    limits = {}
    for i, words in long.items():
        counts = [pieces[word] for word in words]
        if sum(counts) > n_tokens:
            limits[i] = int(np.searchsorted(np.cumsum(counts), n_tokens, side="right"))
    return limits


def count_pieces(words: list[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Word pieces of each word, int64, at the start of a text or after a blank, whichever is more.

    Byte-level tokenizers cut the two differently.
    """
    variants = [words, [f" {word}" for word in words]]
    return np.max([token_counts(variant, tokenizer, special=False) for variant in variants], axis=0)


def token_counts(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, special: bool = True
) -> np.ndarray:
    """Tokens of each text, nothing cut off, int64, shape (n_texts,)."""
    counts: list[int] = []
    for start in range(0, len(texts), CHUNK_ROWS):
        ids = tokenizer(
            texts[start : start + CHUNK_ROWS],
            add_special_tokens=special,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        counts.extend(map(len, ids))
    return np.asarray(counts, dtype=np.int64)
