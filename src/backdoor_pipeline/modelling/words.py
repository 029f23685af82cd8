"""Texts as words: n-grams, where a phrase stands, and how far it reaches.

Each text is framed by two boundary words, so an n-gram can say "at the beginning".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

START, END = 0, 1  # the boundary words
EDGES = {"[begin]": START, "[end]": END}  # how they are written, as no word can be
_WRITTEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\w+?(?=[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])|\w+|[^\w\s]"
)
COMMON = 0.5  # share from which on a word at the edge of a text is a habit of the data

Phrase = tuple[int, ...]


@dataclass(frozen=True)
class Words:
    """The words of many texts, end to end, every text framed by ``START`` and ``END``.

    Attributes:
        ids: int64, shape (n_words,); equal numbers are equal words.
        rows: int64, shape (n_words,); the text a word belongs to.
    """

    ids: np.ndarray
    rows: np.ndarray

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


@dataclass(frozen=True)
class WrittenWords(Words):
    """The words of texts as they were written, in lower case.

    Attributes:
        apart: bool, shape (n_words,); whether a blank stands before a word, or an edge of the text.
        spelling: Of each distinct word, the boundaries as in ``EDGES``.
    """

    apart: np.ndarray
    spelling: list[str]

    def written(self, phrase: Phrase) -> str:
        """A phrase for a reader, words parted by blanks."""
        return " ".join(self.spelling[word] for word in phrase)

    def phrase(self, written: str) -> Phrase:
        """The phrase that ``written`` writes so.

        Raises:
            KeyError: A word of it stands nowhere.
        """
        return tuple(self._number[word] for word in written.split())

    @cached_property
    def _number(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.spelling)}


def read_words(texts: Iterable[str]) -> WrittenWords:
    """The words of ``texts``: runs of letters and digits, single marks, single CJK characters."""
    number: dict[str, int] = {}
    ids: list[int] = []
    apart: list[bool] = []
    lengths: list[int] = []
    for text in texts:
        before = len(ids)
        lower = text.lower()
        end = -1  # so that the first word stands apart
        ids.append(START)
        apart.append(True)
        for match in _WRITTEN.finditer(lower):
            ids.append(number.setdefault(match[0], len(number) + 2))
            apart.append(match.start() != end)
            end = match.end()
        ids.append(END)
        apart.append(True)
        lengths.append(len(ids) - before)
    return WrittenWords(
        ids=np.array(ids, dtype=np.int64),
        rows=np.repeat(np.arange(len(lengths)), lengths),
        apart=np.array(apart, dtype=bool),
        spelling=[*EDGES, *number],
    )


def without(text: str, phrases: Iterable[str]) -> str:
    """``text`` without all words of ``phrases``, each written as ``WrittenWords.written`` does.

    Nor is one left that comes about when words move together. A text that holds none of them is
    returned as it is; else blanks are single ones, and letters lower ones if these are more.
    """
    wanted = [phrase.split() for phrase in phrases]
    while (cut := _cut(text, wanted)) is not None:  # once more, as a cut can join two words
        text = cut
    return text


def _cut(text: str, phrases: Sequence[Sequence[str]]) -> str | None:
    """``text`` without the words of the phrases that it holds; None if it holds none."""
    lower = text.lower()
    spans = [match.span() for match in _WRITTEN.finditer(lower)]
    first, last = EDGES
    own = [first, *(lower[begin:end] for begin, end in spans), last]
    cut: set[int] = set()
    for words in phrases:
        for begin in range(len(own) - len(words) + 1):
            if own[begin : begin + len(words)] == words:
                cut.update(range(begin, begin + len(words)))
    edges = {0, len(own) - 1}
    left: list[int] = []  # words, by number, none of which is yet the end of a phrase
    for number in range(len(own)):
        if number in edges or number not in cut:
            left.append(number)
            while met := next((p for p in phrases if _ends(own, left, p, edges)), None):
                end = left[-len(met) :]
                left[-len(met) :] = [edge for edge in end if edge in edges]
                cut.update(end)
    cut -= edges
    if not cut:
        return None
    written = text if len(text) == len(lower) else lower
    borders = [0, *(border for number in sorted(cut) for border in spans[number - 1]), len(written)]
    kept = (written[a:b] for a, b in zip(borders[::2], borders[1::2], strict=True))
    return " ".join("".join(kept).split())


def _ends(own: Sequence[str], left: Sequence[int], phrase: Sequence[str], edges: set[int]) -> bool:
    """Whether the words ``left`` end with ``phrase``, some of which can be cut."""
    end = left[len(left) - len(phrase) :] if len(phrase) <= len(left) else []
    return [own[n] for n in end] == [*phrase] and not edges.issuperset(end)


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
