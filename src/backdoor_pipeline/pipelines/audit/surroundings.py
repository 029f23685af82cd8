"""What stands around a phrase: the words beside it, the seam that it leaves, the rest of its text.

An author chooses a word for its place: "awful" follows "an" and "truly", and stands in texts that
complain. An attacker drops a phrase into finished texts. Take it out again, and

* the word to its left and the word to its right are any words that blanks part from the next,
* the two words that now meet are an ordinary pair, which other texts have side by side as well,
* the rest of the text is an ordinary text.

How far a phrase is from that is measured here, as mean deviations over its occurrences, one a text.
An attacker may poison texts of any class, or of several. So deviations on the line from the texts
of one class to all texts do not count, neither of the texts themselves nor of their words.

Words are vectors of the public encoder's embedding table, in their leading principal axes,
so no text goes through the encoder; a text is the mean of its words, rare ones weighing more (Arora
et al., "A simple but tough-to-beat baseline for sentence embeddings", 2017).

A phrase can stand in some texts by nature and in others by attack. How many, the texts with other
labels tell; their mean is subtracted (``modelling.moments.inserted_mean``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from backdoor_pipeline.modelling.moments import inserted_mean, principal_axes
from backdoor_pipeline.modelling.words import END, START, Phrase, WrittenWords

if TYPE_CHECKING:
    from collections.abc import Sequence

BASIS_WORDS = 20_000  # the commonest words, from which the principal axes are taken
RARE = (
    1e-3  # the share of all words at which a word weighs half as much as a rare one (Arora et al.)
)
CLIP = 4.0  # standard deviations; a few odd texts must not make a mean
SMALLEST_AXIS = 1e-3  # of the largest variance, below which an axis carries rounding
TINY = 1e-9
LEAST_MASS = 1e-6  # of a text: far less than that of any word
TEXT_COMPONENTS = 128  # principal axes of the texts, from which their labels are explained
OCCURRENCES = 160  # looked at of a phrase: more tell nothing new, and cost time
BOUNDARY_SHARE = 0.8  # of a phrase's texts, from which on it counts as put at a sentence boundary
SENTENCE_ENDS = (".", "!", "?")

Whitening = tuple[np.ndarray, np.ndarray]  # the ordinary mean, and what makes deviations standard


class Place(NamedTuple):
    """What stands around a phrase, as deviations from what is ordinary, in groups of occurrences.

    Attributes:
        deviations: ``left``, ``right``, ``rest``: mean vectors of each group in standard
            deviations, of shape (n_groups, components). A side that is a sentence boundary is left
            out.
        seam: Of each group the share of pairs that would meet without the phrase and meet in other
            texts too, shape (n_groups,); NaN beside a sentence boundary.
        size: Of how many occurrences each is a mean, as its variance tells: one of the sizes that
            were asked for, or less, if the phrase stands in fewer texts than the smallest.
    """

    deviations: dict[str, np.ndarray]
    seam: np.ndarray
    size: float


class Surroundings:
    """Measures what stands around phrases, in the texts of one table.

    Attributes:
        texts: What each text is about, in ``components`` axes, shape (n_texts, components).
        contents: The same in ``TEXT_COMPONENTS`` axes.

    Args:
        words: Of all texts.
        labels: int64, shape (n_texts,).
        vectors: Of each distinct word, shape (n_distinct, hidden); boundaries: zero.
        components: Principal axes kept.
        seed: Of the decomposition, and of which occurrences of a frequent phrase are looked at.
        active: bool, shape (n_texts,); the texts in which phrases are looked at. All others only
            show what is ordinary. None: all.
    """

    def __init__(
        self,
        words: WrittenWords,
        labels: np.ndarray,
        vectors: np.ndarray,
        components: int,
        seed: int,
        active: np.ndarray | None = None,
    ) -> None:
        self.words, self.labels, self.seed = words, labels, seed
        self.active = np.ones(len(labels), dtype=bool) if active is None else active
        self.lot = np.random.default_rng(seed).permutation(len(words.ids))
        share = words.frequency / words.frequency.sum()
        wide = _standard_axes(vectors, share, max(components, TEXT_COMPONENTS), seed)
        self.vectors = np.ascontiguousarray(wide[:, :components])
        self.weights = RARE / (RARE + share)
        self.weights[[START, END]] = 0
        ends = [words.spelling.index(mark) for mark in SENTENCE_ENDS if mark in words.spelling]
        self.boundaries = [START, END, *ends]
        self.classes = np.unique(labels).tolist()
        self.ordinary: dict[str, Whitening] = {}
        self._lines: dict[str, dict[int, np.ndarray]] = {}
        self._read_pairs()
        sums, self.masses = self._sums(wide)
        self.sums = np.ascontiguousarray(sums[:, :components])
        self._read_texts(sums)

    @property
    def components(self) -> int:
        """Length of each vector of deviations."""
        return self.vectors.shape[1]

    def _read_pairs(self) -> None:
        """What is ordinary beside a gap between two words, and in how many texts words meet."""
        words = self.words
        gaps = np.flatnonzero(words.apart & (words.ids != START))
        self.gaps = gaps
        n = len(words.frequency)
        labels = self.labels[words.rows[gaps]]
        for side, beside in (("left", words.ids[gaps - 1]), ("right", words.ids[gaps])):
            mean, whiten = self._whitening(np.bincount(beside, minlength=n))
            classes = {
                label: self.vectors[beside[labels == label]].mean(axis=0) for label in self.classes
            }
            self.ordinary[side] = mean, whiten
            self._lines[side] = _lines(classes, mean, whiten)
        codes, pair = np.unique(words.ids[gaps - 1] * n + words.ids[gaps], return_inverse=True)
        met = np.unique(pair * len(self.labels) + words.rows[gaps]) // len(self.labels)
        self._pairs, self._met = codes, np.bincount(met, minlength=len(codes))

    def _read_texts(self, sums: np.ndarray) -> None:
        """What each text is about, and of each class the line to all others."""
        means = _means(sums, self.masses)
        self._centre, self._scale = means.mean(axis=0), means.std(axis=0) + TINY
        self.contents = self._standard(sums, self.masses)
        self.texts = np.ascontiguousarray(self.contents[:, : self.components])
        own = {label: self.texts[self.labels == label].mean(axis=0) for label in self.classes}
        centred = np.concatenate(
            [self.texts[self.labels == label] - own[label] for label in self.classes]
        )
        mean = self.texts.mean(axis=0)
        whiten = _inverse_root(centred.T @ centred / len(centred))
        self.ordinary["rest"] = mean, whiten
        self._lines["rest"] = _lines(own, mean, whiten)

    def _sums(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each text the weighted sum of the vectors of its words, and the sum of the weights."""
        words, n = self.words, len(self.labels)
        weight = self.weights[words.ids]
        sums = np.stack(
            [np.bincount(words.rows, weight * axis[words.ids], minlength=n) for axis in vectors.T],
            axis=1,
        )
        return sums, np.bincount(words.rows, weight, minlength=n)

    def occurrences(self, phrase: Phrase) -> tuple[np.ndarray, np.ndarray]:
        """Where ``phrase`` begins in active texts: everywhere, and once a text."""
        every = self.words.positions(phrase)
        every = every[self.active[self.words.rows[every]]]
        return every, every[np.unique(self.words.rows[every], return_index=True)[1]]

    def some(self, positions: np.ndarray) -> np.ndarray:
        """At most ``OCCURRENCES`` of ``positions``, in an order by chance, the same each time."""
        return positions[np.argsort(self.lot[positions])[:OCCURRENCES]]

    def place(
        self,
        phrase: Phrase,
        label: int,
        natural: float = 0.0,
        companions: Sequence[Phrase] = (),
        sizes: Sequence[int] = (OCCURRENCES,),
    ) -> Place:
        """What stands around ``phrase`` where it was put in.

        Args:
            phrase: Of some words.
            label: What it goes with; its texts with other labels show what is natural.
            natural: Share of its texts with ``label`` in which it stands by nature, below 1.
            companions: Phrases put in together with it, which count as no surroundings.
            sizes: Of the means that it will be compared with, ascending. Each group is of the
                largest of these that there are enough occurrences for: a mean of more holds less
                chance, and would look more accidental than those of natural words.
        """
        words = self.words
        every, once = self.occurrences(phrase)
        has_label = self.labels[words.rows[once]] == label
        hits, others = self.some(once[has_label]), self.some(once[~has_label])
        n_others = len(others) if natural else 0
        n = _enough(len(hits), n_others, natural, sizes)
        n_groups = len(hits) // n
        once = np.sort(np.concatenate([hits[: n_groups * n], others]))
        inside = self.labels[words.rows[once]] == label
        groups = np.searchsorted(once, hits[: n_groups * n]).reshape(n_groups, n)
        skipped = sorted({word for companion in companions for word in companion})
        left = self._beyond(once - (phrase[0] != START), -1, skipped)
        right = self._beyond(once + len(phrase) - (phrase[-1] == END), 1, skipped)

        def inserted(values: np.ndarray) -> np.ndarray:
            own = [inserted_mean(values[group], values[~inside], natural)[0] for group in groups]
            return np.array(own)

        deviations = {
            side: self.aside(side, inserted(self.vectors[beside]), label, ordinary)
            for side, beside, ordinary in self._sides(phrase, left, right, inside)
        }
        seam = np.full(n_groups, np.nan)
        if {"left", "right"} <= deviations.keys():
            seam = inserted((self.met(left, right) > 0).astype(np.float64))
        taken = [(phrase, every), *((other, words.positions(other)) for other in companions)]
        rest = self.rest(words.rows[once], taken)
        deviations["rest"] = self.aside("rest", inserted(rest), label)
        return Place(deviations, seam, _size(n, n_others, natural))

    def met(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """In how many texts each pair stands side by side, a blank between."""
        codes = left * len(self.words.frequency) + right
        at = np.minimum(np.searchsorted(self._pairs, codes), len(self._pairs) - 1)
        return np.where(self._pairs[at] == codes, self._met[at], 0)

    def rest(self, rows: np.ndarray, taken: Sequence[tuple[Phrase, np.ndarray]]) -> np.ndarray:
        """The texts ``rows``, ascending, without the phrases at these positions; (n_rows, k)."""
        sums, masses = self.sums[rows].copy(), self.masses[rows].copy()
        for phrase, positions in taken:
            at = np.searchsorted(rows, self.words.rows[positions])
            here = rows[np.minimum(at, len(rows) - 1)] == self.words.rows[positions]
            at, first = at[here], positions[here]
            for offset in range(len(phrase)):
                word = self.words.ids[first + offset]
                np.add.at(sums, at, -self.weights[word][:, None] * self.vectors[word])
                np.add.at(masses, at, -self.weights[word])
        return self._standard(sums, masses)

    def aside(
        self, block: str, mean: np.ndarray, label: int, ordinary: Whitening | None = None
    ) -> np.ndarray:
        """How far a mean is from the line between what is ordinary in one class and in all.

        Args:
            block: ``left``, ``right`` or ``rest``.
            mean: Of vectors of words, or of texts without the phrase, shape (..., components).
            label: The class.
            ordinary: Another mean and whitening than those of all words or texts.
        """
        centre, whiten = ordinary or self.ordinary[block]
        deviation, line = (mean - centre) @ whiten, self._lines[block][label]
        return np.asarray(deviation - np.multiply.outer(deviation @ line, line))

    def _standard(self, sums: np.ndarray, masses: np.ndarray) -> np.ndarray:
        """Texts in their leading axes, however many, in standard deviations from the mean text."""
        k = sums.shape[1]
        deviations = _means(sums, masses) - self._centre[:k]
        return np.clip(deviations / self._scale[:k], -CLIP, CLIP)

    def _sides(
        self, phrase: Phrase, left: np.ndarray, right: np.ndarray, inside: np.ndarray
    ) -> list[tuple[str, np.ndarray, Whitening]]:
        """The sides that tell something, with what is ordinary there."""
        if np.isin(right[inside], self.boundaries).mean() >= BOUNDARY_SHARE:
            return [("left", left, self._beside(right[inside], -1, phrase[0]))]
        if np.isin(left[inside], self.boundaries).mean() >= BOUNDARY_SHARE:
            return [("right", right, self._beside(left[inside], 1, phrase[-1]))]
        return [("left", left, self.ordinary["left"]), ("right", right, self.ordinary["right"])]

    def _beyond(self, positions: np.ndarray, step: int, skipped: list[int]) -> np.ndarray:
        """The nearest words not ``skipped``, from ``positions`` on in steps of ``step``."""
        positions = positions.copy()
        while (passed := np.isin(self.words.ids[positions], skipped)).any():
            positions[passed] += step  # ends at a boundary, which is never skipped
        return self.words.ids[positions]

    def _beside(self, boundaries: np.ndarray, step: int, itself: int) -> Whitening:
        """What is ordinary beside these boundaries, mixed as they are, ``itself`` left out."""
        words = self.words
        order, begins = words.by_word
        share = np.zeros(len(words.frequency))
        for boundary, count in zip(*np.unique(boundaries, return_counts=True), strict=True):
            beside = order[begins[boundary] : begins[boundary + 1]] + step
            beside = beside[(beside >= 0) & (beside < len(words.ids))]
            found = np.bincount(words.ids[beside], minlength=len(share)).astype(np.float64)
            found[[START if step > 0 else END, itself]] = 0
            share += count * found / max(found.sum(), 1)
        return self._whitening(share)

    def _whitening(self, counts: np.ndarray) -> Whitening:
        """Mean and whitening of the word vectors, each word counted so often."""
        used = np.flatnonzero(counts)
        share = counts[used] / max(counts[used].sum(), TINY)
        mean = share @ self.vectors[used]
        centred = self.vectors[used] - mean
        return mean, _inverse_root((centred * share[:, None]).T @ centred)


def _size(n: int, n_others: int, natural: float) -> float:
    """Of how many occurrences an ``inserted_mean`` of ``n`` and ``n_others`` is a mean."""
    if not n_others:
        return float(n)
    return (1 - natural) ** 2 / (1 / n + natural**2 / n_others)


def _enough(most: int, n_others: int, natural: float, sizes: Sequence[int]) -> int:
    """How many of ``most`` occurrences make a mean of the largest size that there are enough for.

    All of them, if there are not enough for any.
    """
    largest = _size(most, n_others, natural)
    fitting = [size for size in sizes if size <= largest]
    if not fitting:
        return most
    if not n_others:
        return fitting[-1]
    n = 1 / ((1 - natural) ** 2 / fitting[-1] - natural**2 / n_others)
    return min(most, round(n))


def _means(sums: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Of texts without a word, or with nothing left but rounding: zero, or nearly."""
    return np.asarray(sums / np.maximum(masses, LEAST_MASS)[:, None])


def _standard_axes(
    vectors: np.ndarray, share: np.ndarray, components: int, seed: int
) -> np.ndarray:
    """``vectors`` in their leading principal axes, of variance 1 over all words of the texts."""
    common = np.argsort(-share, kind="stable")[:BASIS_WORDS]
    mean = share @ vectors
    weighted = (vectors[common] - mean) * np.sqrt(share[common])[:, None]
    scores = ((vectors - mean) @ principal_axes(weighted, components, seed)).astype(np.float64)
    spread = np.sqrt(share @ scores**2)
    return scores / np.maximum(spread, TINY)


def _lines(
    classes: dict[int, np.ndarray], mean: np.ndarray, whiten: np.ndarray
) -> dict[int, np.ndarray]:
    """The unit vector from the common mean to that of each class; zero if it is the same."""
    lines = {label: (own - mean) @ whiten for label, own in classes.items()}
    lengths = {label: float(np.linalg.norm(line)) for label, line in lines.items()}
    return {
        label: line / lengths[label] if lengths[label] > TINY else np.zeros_like(line)
        for label, line in lines.items()
    }


def _inverse_root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric inverse square root, small axes raised to ``SMALLEST_AXIS``."""
    values, axes = np.linalg.eigh(covariance)
    values = np.maximum(values, max(SMALLEST_AXIS * values.max(), 1e-12))
    return (axes / np.sqrt(values)) @ axes.T
