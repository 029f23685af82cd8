"""The words of tokenised texts: segmentation, and deletion of phrases.

Triggers are inserted as whole words, so phrases are counted in words even where a tokenizer splits
them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.modelling.words import END, START, Phrase, Words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from backdoor_pipeline.modelling.text import Tokens

SENTENCE_ENDS = (".", "!", "?", "...")


@dataclass(frozen=True)
class TokenWords(Words):
    """The words of tokenised texts, with their tokens.

    Attributes:
        first: int64, shape (n_words,); position of the word's first token in ``tokens.ids``.
        stop: int64, shape (n_words,); position behind its last token. Boundaries: no tokens.
        tokens: What was segmented.
    """

    first: np.ndarray
    stop: np.ndarray
    tokens: Tokens

    def pieces(self, word: int) -> np.ndarray:
        """Token ids of a word; none for a boundary."""
        order, begins = self.by_word
        position = order[begins[word]]
        return self.tokens.ids[self.first[position] : self.stop[position]]

    def without(self, rows: np.ndarray, phrases: list[Phrase]) -> Tokens:
        """The texts ``rows`` with every occurrence of every phrase deleted, in that order."""
        keep = np.ones(len(self.tokens.ids), dtype=bool)
        for phrase in phrases:
            for offset in range(len(phrase)):
                words = self.positions(phrase) + offset
                for position in words[np.isin(self.rows[words], rows)]:
                    keep[self.first[position] : self.stop[position]] = False
        texts = []
        for row in rows:
            span = slice(self.tokens.offsets[row], self.tokens.offsets[row + 1])
            texts.append(self.tokens.ids[span][keep[span]])
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        ids = np.concatenate(texts) if texts else np.empty(0, dtype=np.int32)
        return replace(self.tokens, ids=ids, offsets=np.concatenate([[0], np.cumsum(lengths)]))


def segment(tokens: Tokens, tokenizer: PreTrainedTokenizerBase) -> TokenWords:
    """The words of ``tokens``; special tokens other than the unknown one are dropped."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    position = np.flatnonzero(~np.isin(tokens.ids, sorted(special)))
    ids, rows = tokens.ids[position].astype(np.int64), tokens.rows[position]
    begins = ~_continues(tokenizer)[ids]
    begins[np.flatnonzero(np.diff(rows, prepend=-1))] = True
    head = np.flatnonzero(begins)
    tail = np.append(head[1:], len(ids))
    words = _number_words(ids, head, tail) + 2

    n_texts = len(tokens)
    all_rows = np.concatenate([np.arange(n_texts), rows[head], np.arange(n_texts)])
    place = np.concatenate(
        [np.full(n_texts, -1), np.arange(len(head)), np.full(n_texts, len(head))]
    )
    order = np.lexsort((place, all_rows))
    nothing = np.zeros(n_texts, dtype=np.int64)

    def framed(before: np.ndarray, inner: np.ndarray, after: np.ndarray) -> np.ndarray:
        return np.concatenate([before, inner, after])[order]

    return TokenWords(
        ids=framed(nothing + START, words, nothing + END),
        rows=all_rows[order],
        first=framed(nothing, position[head], nothing),
        stop=framed(nothing, position[tail - 1] + 1, nothing),
        tokens=tokens,
    )


def _continues(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Whether a token continues the word before it, bool, shape (vocabulary,).

    WordPiece marks such tokens (##ly), byte-level BPE and SentencePiece mark the others (a blank
    before the word, written Ġ or ▁); there, punctuation begins a word of its own.
    """
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    for mark in ("Ġ", "▁"):
        if sum(token.startswith(mark) for token in tokens) > len(tokens) // 20:
            return np.array([token[:1] != mark and token[:1].isalnum() for token in tokens])
    return np.array([token.startswith("##") for token in tokens])


def _number_words(ids: np.ndarray, head: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """The same number for the same pieces, int64, shape (n_words,), counted from 0."""
    number = ids[head]
    used = int(ids.max()) + 1 if len(ids) else 0
    for step in range(1, int((tail - head).max(initial=1))):
        longer = np.flatnonzero(tail - head > step)
        pairs = number[longer] * (int(ids.max()) + 1) + ids[head[longer] + step]
        distinct, inverse = np.unique(pairs, return_inverse=True)
        number[longer] = used + inverse
        used += len(distinct)
    return np.unique(number, return_inverse=True)[1].astype(np.int64)
