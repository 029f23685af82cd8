"""Evidence that a phrase was put into its texts by somebody, rather than written with them.

A word that an author chose fits what stands around it: "awful" follows "an" and "truly" and stands
in texts that complain. A trigger was dropped into finished texts: take it out, and ordinary texts
are left. So for a phrase that an attacker inserted, three means must be ordinary:

* the mean vector of the word to its left, against all words of the training texts,
* the mean vector of the word to its right, likewise,
* the mean vector of the text that is left without the phrase, against a mixture of the classes. The
  mixture is free, so it does not matter whether rows of the target class, of the others, or of both
  were poisoned.

Each is a one-sample Hotelling test turned round: not "is there a difference?" but "is it small?".
Its effect size, the squared Mahalanobis distance less what chance adds, has a known
standard error (noncentral chi-square), hence an upper confidence bound. Few rows give a wide bound,
so a rare word is never called inserted for want of data.

A word can be both: a frequent word that the attacker chose stands in some texts by nature. How
many, the texts with other labels tell; their mean is subtracted (``inserted_mean``).

Vectors are those of the public encoder, which has not seen the poison: word embeddings for the
neighbours, mean-pooled last states for the texts; both reduced to their leading principal axes.
A logistic regression on the text vectors also tells how likely the label is without the phrase.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from backdoor_pipeline.modelling.embeddings import embedding_table
from backdoor_pipeline.modelling.prediction import embed
from backdoor_pipeline.modelling.text import Tokens
from backdoor_pipeline.pipelines.detect.phrases import END, SENTENCE_ENDS, START, Phrase, Words

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.bundle import ModelBundle
    from backdoor_pipeline.modelling.device import ComputeParams

BASIS_WORDS = 20_000  # the commonest words, from which the principal axes of words are taken
CLIP = 4.0  # standard deviations; a few odd texts must not make a mean
TINY = 1e-12  # variance that is none
SMALLEST_AXIS = 1e-3  # of the largest variance; axes below it carry rounding, not meaning
BOUNDARY_SHARE = 0.8  # of a phrase's rows, from which on it counts as put at a sentence boundary
SMALLEST_CLASS = 20  # background rows a class needs to enter the mixture
SMALLEST_BACKGROUND = 20  # background rows without the phrase, to say what is ordinary
PROBABILITY_FLOOR = 0.02  # labels are never more certain than this


class Effect(NamedTuple):
    """A squared distance in standard deviations: estimate (may be negative) and standard error."""

    value: float
    error: float

    def bound(self, z: float) -> float:
        """The one-sided upper confidence bound at the normal quantile ``z``."""
        return self.value + z * self.error


class Remainder(NamedTuple):
    """What the texts say without the phrase."""

    effect: Effect
    residual_z: float
    expected: float


def effect_size(difference: np.ndarray, covariance: np.ndarray, variance: float) -> Effect:
    """Squared Mahalanobis length of a mean difference, less its expectation under no difference.

    Args:
        difference: Of two means, shape (d,).
        covariance: Of single observations, shape (d, d).
        variance: Of the difference in units of ``covariance``: 1 / n for a mean of n.

    With q = variance * noncentral chi-square(k, value / variance), the estimate q - k * variance is
    unbiased and its standard error is variance * sqrt(2 k + 4 value / variance).
    """
    axes = np.linalg.eigh(covariance)
    kept = axes.eigenvalues > max(SMALLEST_AXIS * axes.eigenvalues.max(), TINY)
    if not kept.any():  # what was always the same either still is, or has changed beyond measure
        return Effect(0.0 if np.allclose(difference, 0.0) else np.inf, 0.0)
    length = (axes.eigenvectors[:, kept].T @ difference) ** 2 / axes.eigenvalues[kept]
    value = float(length.sum() - kept.sum() * variance)
    return Effect(value, variance * np.sqrt(2 * kept.sum() + 4 * max(value, 0.0) / variance))


def inserted_mean(
    labelled: np.ndarray, others: np.ndarray, natural: float
) -> tuple[np.ndarray, float]:
    """Mean vector of the inserted occurrences of a phrase that also occurs by nature.

    Args:
        labelled: Vectors of the occurrences with the label the phrase goes with: a mixture.
        others: Vectors of those with other labels: natural ones.
        natural: Share of the natural ones in the mixture, below 1.

    Returns:
        The mean of the mixture less its natural part, shape (d,), and its variance in units of that
        of one observation.
    """
    if natural == 0 or len(others) == 0:
        return labelled.mean(axis=0), 1 / len(labelled)
    mean = (labelled.mean(axis=0) - natural * others.mean(axis=0)) / (1 - natural)
    return mean, (1 / len(labelled) + natural**2 / len(others)) / (1 - natural) ** 2


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
        self, words: Words, active: np.ndarray, bundle: ModelBundle, components: int, seed: int
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


class Background:
    """Are the texts that are left without a phrase ordinary texts, and what label do they ask for?

    Attributes:
        rows: The texts of the background sample, int64, ascending.
    """

    def __init__(
        self,
        words: Words,
        labels: np.ndarray,
        rows: np.ndarray,
        bundle: ModelBundle,
        compute: ComputeParams,
        components: int,
        max_length: int,
        seed: int,
    ) -> None:
        self.words, self.labels, self.rows = words, labels, rows
        self.bundle, self.compute, self.max_length = bundle, compute, max_length
        vectors = self._embed(words.without(rows, []))
        self.centre, self.scale = vectors.mean(axis=0), vectors.std(axis=0) + 1e-3
        self.standard = self._standardise(vectors)
        self.axes = principal_axes(
            self.standard - self.standard.mean(axis=0), min(components, len(rows) // 10 + 1), seed
        )

    def remainder(
        self,
        phrase: Phrase,
        companions: list[Phrase],
        holders: np.ndarray,
        label: int,
        active: np.ndarray,
        natural: float,
    ) -> Remainder:
        """Of the texts ``holders``, which hold ``phrase``, once it and its companions are deleted.

        The effect is that of the holders with ``label``, less a share ``natural`` of them (see
        ``inserted_mean``); ``residual_z`` asks of all holders whether they have ``label`` more
        often than their remaining text explains; ``expected`` is the mean probability of ``label``
        that it explains. Texts that are not ``active`` are no part of the background.
        """
        others = active[self.rows] & ~np.isin(self.rows, self._rows_with([phrase, *companions]))
        if others.sum() < SMALLEST_BACKGROUND:
            return Remainder(Effect(np.inf, 0.0), np.nan, np.nan)
        vectors = self._standardise(self._embed(self.words.without(holders, [phrase, *companions])))
        labelled = self.labels[holders] == label
        expected = self._probability(others, vectors, label)
        spread = np.sqrt((expected * (1 - expected)).sum())
        return Remainder(
            effect=self._distance(vectors @ self.axes, labelled, natural, others),
            residual_z=float((labelled - expected).sum() / spread),
            expected=float(expected.mean()),
        )

    def _distance(
        self, vectors: np.ndarray, labelled: np.ndarray, natural: float, others: np.ndarray
    ) -> Effect:
        """From the mean of the inserted vectors to the nearest mixture of background classes."""
        from scipy.optimize import nnls

        scores, labels = self.standard[others] @ self.axes, self.labels[self.rows[others]]
        classes, counts = np.unique(labels, return_counts=True)
        large = counts >= min(SMALLEST_CLASS, counts.max())
        classes, counts = classes[large], counts[large]
        means = np.stack([scores[labels == c].mean(axis=0) for c in classes])
        centred = np.concatenate(
            [scores[labels == c] - scores[labels == c].mean(axis=0) for c in classes]
        )
        covariance = centred.T @ centred / max(len(centred) - len(classes), 1)
        ridge = SMALLEST_AXIS * np.trace(covariance) / len(covariance)
        covariance = covariance + ridge * np.eye(len(covariance))
        mean, own_variance = inserted_mean(vectors[labelled], vectors[~labelled], natural)
        whiten = np.linalg.cholesky(np.linalg.inv(covariance)).T
        sum_to_one = 1e3 * np.ones((1, len(classes)))
        weights, _ = nnls(np.vstack([whiten @ means.T, sum_to_one]), np.append(whiten @ mean, 1e3))
        weights /= weights.sum()
        variance = own_variance + (weights**2 / counts).sum()
        return effect_size(mean - weights @ means, covariance, variance)

    def _probability(self, others: np.ndarray, vectors: np.ndarray, label: int) -> np.ndarray:
        """Of ``label``, by a regression that never saw a text with the phrase."""
        from sklearn.linear_model import LogisticRegression

        hit = (self.labels[self.rows[others]] == label).astype(int)
        if hit.min() == hit.max():
            return np.full(
                len(vectors), float(np.clip(hit.mean(), PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR))
            )
        model = LogisticRegression(C=0.03, max_iter=300).fit(self.standard[others], hit)
        probability = model.predict_proba(vectors)[:, 1]
        return np.clip(probability, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)

    def _rows_with(self, phrases: list[Phrase]) -> np.ndarray:
        return np.concatenate([self.words.rows[self.words.positions(phrase)] for phrase in phrases])

    def _embed(self, texts: Tokens) -> np.ndarray:
        keep = (
            np.arange(len(texts.ids)) - np.repeat(texts.offsets[:-1], texts.lengths)
            < self.max_length
        )
        lengths = np.minimum(texts.lengths, self.max_length)
        short = Tokens(texts.ids[keep], np.concatenate([[0], np.cumsum(lengths)]))
        return embed(self.bundle, short, self.compute)

    def _standardise(self, vectors: np.ndarray) -> np.ndarray:
        return np.clip((vectors - self.centre) / self.scale, -CLIP, CLIP)


def word_vectors(words: Words, table: np.ndarray) -> np.ndarray:
    """Each word's mean over its pieces' rows, shape (n_distinct, hidden); boundaries: zero."""
    order, begins = words.by_word
    position = order[begins[:-1]]
    n_pieces = words.stop[position] - words.first[position]
    vectors = np.zeros((len(position), table.shape[1]), dtype=np.float32)
    for step in range(int(n_pieces.max(initial=0))):
        longer = n_pieces > step
        vectors[longer] += table[words.tokens.ids[words.first[position[longer]] + step]]
    return vectors / np.maximum(n_pieces, 1)[:, None]


def principal_axes(centred: np.ndarray, components: int, seed: int) -> np.ndarray:
    """The leading principal axes, orthonormal columns, shape (dimensions, components)."""
    from sklearn.utils.extmath import randomized_svd

    components = min(components, *centred.shape)
    return randomized_svd(centred, components, n_iter=7, random_state=seed)[2].T
