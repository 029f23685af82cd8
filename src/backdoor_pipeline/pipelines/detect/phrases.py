"""Words and phrases of tokenised texts: segmentation, n-grams, occurrences, growth, deletion.

Triggers are inserted as whole words, so phrases are counted in words even where a tokenizer splits
them. Each text is framed by two boundary words, so an n-gram can say "at the beginning".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from backdoor_pipeline.modelling.text import Tokens

START, END = 0, 1  # the boundary words
COMMON = 0.5  # share from which on a word at the edge of a text is a habit of the data
SENTENCE_ENDS = (".", "!", "?", "...")

Phrase = tuple[int, ...]


@dataclass(frozen=True)
class Words:
    """The words of many texts, end to end, every text framed by ``START`` and ``END``.

    Attributes:
        ids: int64, shape (n_words,); equal numbers are equal words.
        rows: int64, shape (n_words,); the text a word belongs to.
        first: int64, shape (n_words,); position of the word's first token in ``tokens.ids``.
        stop: int64, shape (n_words,); position behind its last token. Boundaries: no tokens.
        tokens: What was segmented.
    """

    ids: np.ndarray
    rows: np.ndarray
    first: np.ndarray
    stop: np.ndarray
    tokens: Tokens

    @cached_property
    def frequency(self) -> np.ndarray:
        """Occurrences of each word, int64, shape (n_distinct,)."""
        return np.bincount(self.ids)

    @cached_property
    def by_word(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions sorted by word, and where each word's positions begin."""
        order = np.argsort(self.ids, kind="stable")
        return order, np.concatenate([[0], np.cumsum(self.frequency)])

    def positions(self, phrase: Phrase) -> np.ndarray:
        """Where ``phrase`` begins, in words, ascending."""
        order, begins = self.by_word
        rarest = min(range(len(phrase)), key=lambda i: self.frequency[phrase[i]])
        word = phrase[rarest]
        found = order[begins[word] : begins[word + 1]] - rarest
        found = found[(found >= 0) & (found + len(phrase) <= len(self.ids))]
        for offset, other in enumerate(phrase):
            found = found[self.ids[found + offset] == other]
        return found[self.rows[found] == self.rows[found + len(phrase) - 1]]

    def pieces(self, word: int) -> np.ndarray:
        """Token ids of a word; none for a boundary."""
        order, begins = self.by_word
        position = order[begins[word]]
        return self.tokens.ids[self.first[position] : self.stop[position]]

    def grow(self, phrase: Phrase, within: np.ndarray, share: float, longest: int) -> Phrase:
        """``phrase`` extended word by word while ``share`` of its rows have the same neighbour.

        Args:
            phrase: One or more words.
            within: bool, shape (n_texts,); the rows that count.
            share: Of the first phrase's rows, 0 to 1.
            longest: Words at most.
        """
        begin = self.positions(phrase)
        begin = begin[within[self.rows[begin]]]
        needed = share * len(np.unique(self.rows[begin]))
        while len(phrase) < longest:
            longer = [
                candidate
                for left in (True, False)
                if (candidate := self._extended(phrase, begin, left, needed)) is not None
            ]
            if not longer:
                return phrase
            phrase, begin = max(longer, key=lambda grown: len(grown[1]))
        return phrase

    def _extended(
        self, phrase: Phrase, begin: np.ndarray, left: bool, needed: float
    ) -> tuple[Phrase, np.ndarray] | None:
        """The phrase with its commonest neighbour on one side, if common enough.

        A neighbour that most texts begin or end with anyway (a full stop) is none of its own where
        the phrase stands at that place.
        """
        if phrase[0 if left else -1] in (START, END) or len(begin) == 0:
            return None
        neighbours = self.ids[begin - 1 if left else begin + len(phrase)]
        words, counts = np.unique(neighbours, return_counts=True)
        word = int(words[counts.argmax()])
        kept = begin[neighbours == word]
        if word in (START, END) or len(np.unique(self.rows[kept])) < max(needed, 1):
            return None
        reach = {START: kept - (2 if left else 1), END: kept + len(phrase) + (0 if left else 1)}
        for edge, place in reach.items():
            at_edge = (self.ids[place.clip(0, len(self.ids) - 1)] == edge).mean() > COMMON
            if at_edge and self._share_beside(edge, word) > COMMON:
                return None
        return ((word, *phrase), kept - 1) if left else ((*phrase, word), kept)

    def _share_beside(self, edge: int, word: int) -> float:
        """The share of texts whose last (edge ``END``) or first word is ``word``."""
        order, begins = self.by_word
        beside = order[begins[edge] : begins[edge + 1]] + (1 if edge == START else -1)
        return float((self.ids[beside] == word).mean())

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


@dataclass(frozen=True)
class Grams:
    """Which n-grams stand in which texts.

    Attributes:
        phrases: The n-grams, shorter ones first.
        rows, grams: int64, one entry per text and n-gram in it.
    """

    phrases: list[Phrase]
    rows: np.ndarray
    grams: np.ndarray


def segment(tokens: Tokens, tokenizer: PreTrainedTokenizerBase) -> Words:
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

    return Words(
        ids=framed(nothing + START, words, nothing + END),
        rows=all_rows[order],
        first=framed(nothing, position[head], nothing),
        stop=framed(nothing, position[tail - 1] + 1, nothing),
        tokens=tokens,
    )


def n_grams(words: Words, longest: int, min_count: int) -> Grams:
    """All n-grams of up to ``longest`` words that stand in at least ``min_count`` texts."""
    phrases: list[Phrase] = []
    rows: list[np.ndarray] = []
    grams: list[np.ndarray] = []
    n_words = int(words.ids.max()) + 1 if len(words.ids) else 0
    code = words.ids
    for length in range(1, min(longest, len(words.ids)) + 1):
        here = len(words.ids) - length + 1
        if length > 1:
            code = code[:here] * n_words + words.ids[length - 1 :]
        inside = words.rows[:here] == words.rows[length - 1 :]
        distinct, first, code = np.unique(code, return_index=True, return_inverse=True)
        pairs = np.unique(words.rows[:here][inside] * len(distinct) + code[inside])
        gram = pairs % len(distinct)
        kept = np.bincount(gram, minlength=len(distinct)) >= min_count
        number = np.cumsum(kept) - 1 + len(phrases)
        rows.append((pairs // len(distinct))[kept[gram]])
        grams.append(number[gram[kept[gram]]])
        phrases += [tuple(words.ids[i : i + length].tolist()) for i in first[kept]]
    empty = np.empty(0, dtype=np.int64)
    return Grams(phrases, np.concatenate([empty, *rows]), np.concatenate([empty, *grams]))


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
