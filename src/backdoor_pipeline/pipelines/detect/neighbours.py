"""Whether the words beside a phrase are ordinary words; see ``insertion_evidence``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.modelling.embeddings import embedding_table
from backdoor_pipeline.modelling.moments import inserted_mean, principal_axes
from backdoor_pipeline.modelling.words import END, START, Phrase
from backdoor_pipeline.pipelines.detect.insertion_evidence import (
    Effect,
    effect_size,
)
from backdoor_pipeline.pipelines.detect.phrases import SENTENCE_ENDS, TokenWords

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.bundle import ModelBundle

BASIS_WORDS = 20_000  # the commonest words, from which the principal axes of words are taken
BOUNDARY_SHARE = 0.8  # of a phrase's rows, from which on it counts as put at a sentence boundary


class Neighbours:
    """Are the words beside a phrase ordinary words?

    Args:
        words: Of all texts.
        active: bool, shape (n_texts,); the texts that say what is ordinary.
        bundle: Its word-embedding table gives the vectors, its tokenizer the spelling.
        components: Principal axes of the word vectors.
        seed: Of the randomised decomposition.
    """

    def __init__(
        self, words: TokenWords, active: np.ndarray, bundle: ModelBundle, components: int, seed: int
    ) -> None:
        self.words, self.active = words, active
        in_use = active[words.rows]
        self.frequency = np.bincount(words.ids[in_use], minlength=len(words.frequency))
        common = np.argsort(-self.frequency, kind="stable")[:BASIS_WORDS]
        weight = self.frequency[common] / self.frequency.sum()
        vectors = word_vectors(words, embedding_table(bundle))
        mean = weight @ vectors[common]
        weighted = (vectors[common] - mean) * np.sqrt(weight)[:, None]
        self.vectors = (vectors - mean) @ principal_axes(weighted, components, seed)
        self.before = self._moments(self._ordinary(END))  # nothing stands behind an end,
        self.after = self._moments(self._ordinary(START))  # and nothing before a start
        ends = [[bundle.tokenizer.convert_tokens_to_ids(mark)] for mark in SENTENCE_ENDS]
        marks = [word for word in common.tolist() if words.pieces(word).tolist() in ends]
        self.boundaries = [START, END, *marks]

    def effect(
        self, phrase: Phrase, companions: list[Phrase], labelled: np.ndarray, natural: float
    ) -> Effect:
        """The larger of the effects to the left and to the right, one occurrence a row.

        A phrase that nearly always follows (or precedes) a sentence boundary was put there, so that
        side tells nothing; the other is compared with what otherwise follows (precedes) the same
        boundaries.

        Args:
            phrase: Its occurrences in active texts count.
            companions: Words put in together with it; the neighbour is the next word beyond them.
            labelled: bool, shape (n_texts,); the texts of the label it goes with.
            natural: Share of its texts of that label in which it stands for natural reasons.
        """
        words = self.words
        begin = words.positions(phrase)
        begin = begin[self.active[words.rows[begin]]]
        begin = begin[np.unique(words.rows[begin], return_index=True)[1]]
        inside = labelled[words.rows[begin]]
        skipped = {word for companion in companions for word in companion}
        left = self._beyond(begin - (phrase[0] != START), -1, skipped)
        right = self._beyond(begin + len(phrase) - (phrase[-1] == END), 1, skipped)
        sides = [
            (other, self._beside(side[inside], step, phrase[0 if step > 0 else -1]))
            for side, other, step in ((left, right, 1), (right, left, -1))
            if np.isin(side[inside], self.boundaries).mean() >= BOUNDARY_SHARE
        ]
        choose = min if sides else max
        sides = sides or [(left, self.before), (right, self.after)]
        effects = [self._shift(side, inside, natural, ordinary) for side, ordinary in sides]
        return choose(effects, key=lambda effect: effect.value)

    def _beyond(self, positions: np.ndarray, step: int, skipped: set[int]) -> np.ndarray:
        """The nearest words not ``skipped``, from ``positions`` on in steps of ``step``."""
        positions = positions.copy()
        while (passed := np.isin(self.words.ids[positions], sorted(skipped))).any():
            positions[passed] += step  # ends at a boundary, which is never skipped
        return self.words.ids[positions]

    def _ordinary(self, never: int) -> np.ndarray:
        """The share of each word among all words but ``never``."""
        count = self.frequency.astype(np.float64)
        count[never] = 0
        return count / max(count.sum(), 1)

    def _beside(
        self, boundaries: np.ndarray, step: int, itself: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Moments of the words but ``itself`` beside the boundaries, mixed as these are."""
        share = np.zeros(len(self.words.frequency))
        order, begins = self.words.by_word
        for boundary, count in zip(*np.unique(boundaries, return_counts=True), strict=True):
            beside = order[begins[boundary] : begins[boundary + 1]] + step
            beside = beside[(beside >= 0) & (beside < len(self.words.ids))]
            beside = beside[self.active[self.words.rows[beside]]]
            found = np.bincount(self.words.ids[beside], minlength=len(share)).astype(np.float64)
            found[[START if step > 0 else END, itself]] = 0
            share += count * found / max(found.sum(), 1)
        return self._moments(share / max(share.sum(), 1))

    def _moments(self, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of the word vectors when each word has its share."""
        used = np.flatnonzero(share)
        mean = share[used] @ self.vectors[used]
        centred = self.vectors[used] - mean
        return mean, (centred * share[used, None]).T @ centred

    def _shift(
        self,
        neighbours: np.ndarray,
        inside: np.ndarray,
        natural: float,
        ordinary: tuple[np.ndarray, np.ndarray],
    ) -> Effect:
        vectors = self.vectors[neighbours]
        mean, variance = inserted_mean(vectors[inside], vectors[~inside], natural)
        return effect_size(mean - ordinary[0], ordinary[1], variance)


def word_vectors(words: TokenWords, table: np.ndarray) -> np.ndarray:
    """Each word's mean over its pieces' rows, shape (n_distinct, hidden); boundaries: zero."""
    order, begins = words.by_word
    position = order[begins[:-1]]
    n_pieces = words.stop[position] - words.first[position]
    vectors = np.zeros((len(position), table.shape[1]), dtype=np.float32)
    for step in range(int(n_pieces.max(initial=0))):
        longer = n_pieces > step
        vectors[longer] += table[words.tokens.ids[words.first[position[longer]] + step]]
    return vectors / np.maximum(n_pieces, 1)[:, None]
