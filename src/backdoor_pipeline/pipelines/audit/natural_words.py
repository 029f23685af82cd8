"""How accidental do the places of natural words look? The null distribution, from the data.

Every word that the authors of a table wrote is a sample of what natural words look like in it. A
phrase is called inserted if its surroundings are more ordinary than those of natural words, both
looked at in as many texts; the share of natural words that would seem as accidental is its p-value,
by a normal distribution: there are only some dozens or hundreds of them to count.

The surroundings (``surroundings``) are summed up in two numbers:

* the likelihood ratio of the mean deviations: normal with the covariance of the natural words' own
  means, plus chance, against chance alone (cross-fitted, so no word is judged by a covariance that
  it has a part in),
* the share of seams that other texts have as well.

Random places in random texts of the table stand for what an attacker would leave: the two numbers
are combined so that these stand out most. Along that score, the lower end of the natural words,
from which an inserted phrase would stick out, is about normal; its quantiles give the scale.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from backdoor_pipeline.modelling.words import END
from backdoor_pipeline.pipelines.audit.surroundings import OCCURRENCES, Place, Surroundings

if TYPE_CHECKING:
    from collections.abc import Collection

SIZES = (8, 9, 11, 13, 16, 19, 22, 27, 32, 38, 45, 54, 64, 76, 90, 107, 128, OCCURRENCES)
"""Occurrences that a null is made for."""

N_WORDS = 800  # natural words looked at, at most
FREQUENT = 64  # occurrences; half of the words looked at have as many, where there are so many
FEWEST = 40  # natural words that a null needs; with fewer, that of fewer occurrences is taken
FOLDS = 4
N_PLACES = 120  # groups of random places that stand for inserted phrases
QUANTILES = (0.005, 0.02, 0.05, 0.1)  # at which the lower end of the natural words is measured
SEAM_COUNTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # what a seam may count beside the ratio
BLOCKS = ("left", "right", "rest")
TINY = 1e-9


class Null(NamedTuple):
    """What natural words look like in a certain number of texts.

    Attributes:
        size: That number.
        covariances: One a fold: eigenvalues and eigenvectors of the natural means' covariance.
        seam_counts: How much the seam counts beside the ratio.
        seam: The mean of random places; a seam that is more ordinary says nothing more.
        centre, scale: Of the natural words' scores.
        inserted: Of the random places, standardised.
    """

    size: int
    covariances: list[tuple[np.ndarray, np.ndarray]]
    seam_counts: float
    seam: float
    centre: float
    scale: float
    inserted: np.ndarray


class NaturalWords:
    """The natural words of a table, as what phrases are compared with.

    Args:
        surroundings: Of all texts.
        suspected: Words that are tied to a label: triggers may be among them, so they are not
            looked at.
    """

    def __init__(self, surroundings: Surroundings, suspected: Collection[int] = ()) -> None:
        self.surroundings, self._suspected = surroundings, sorted(suspected)
        self._rng = np.random.default_rng(surroundings.seed)
        self._words = self._look_around()
        self._fold = self._rng.integers(FOLDS, size=len(self._words))
        self._deviations = cache(self._deviations_of)
        self._places = cache(self._random_places)
        self.null = cache(self._null)

    def __len__(self) -> int:
        return len(self._words)

    @cached_property
    def sizes(self) -> list[int]:
        """Occurrences that there is a null for, ascending."""
        lengths = np.array([len(values) for _, values in self._words])
        return [size for size in SIZES if (lengths >= size).sum() >= FEWEST]

    def fitting(self, size: float, blocks: tuple[str, ...] = BLOCKS) -> Null | None:
        """What means of ``size`` occurrences are compared with.

        That is the null of the most occurrences that are not more than these, or of the fewest;
        None if there is none at all.
        """
        below = [candidate for candidate in self.sizes if candidate <= max(size, SIZES[0])]
        return self.null(below[-1], blocks) if below else None

    def standard_score(self, place: Place) -> float:
        """How a phrase scores among natural words: low if it was inserted.

        Below zero the scores of natural words are about standard normal.
        It is the mean score of its groups, which varies less than the scores of natural words do.
        Infinite where there are too few natural words to say anything.
        """
        blocks = tuple(block for block in BLOCKS if block in place.deviations)
        null = self.fitting(place.size, blocks)
        if null is None:
            return np.inf
        means = np.hstack([place.deviations[block] for block in blocks])
        scores = np.mean([_ratio(means, axes, null.size) for axes in null.covariances], axis=0)
        if null.seam_counts:
            scores = scores - null.seam_counts * np.minimum(place.seam, null.seam)
        return float((scores.mean() - null.centre) / null.scale)

    def planted_scores(self, size: int) -> np.ndarray | None:
        """The same of triggers that stand at random places of ``size`` texts, of many such."""
        null = self.fitting(size)
        if null is None:
            return None
        n_groups = min(size, OCCURRENCES) // null.size
        whole = len(null.inserted) // n_groups * n_groups
        return np.asarray(null.inserted[:whole].reshape(-1, n_groups).mean(axis=1))

    def _look_around(self) -> list[tuple[int, np.ndarray]]:
        """Of some natural words the label they go with, and what stands around each occurrence."""
        around, words = self.surroundings, self.surroundings.words
        frequent = np.flatnonzero(words.frequency >= SIZES[0])
        frequent = frequent[(frequent > END) & ~np.isin(frequent, self._suspected)]
        frequent = self._rng.permutation(frequent)
        many = words.frequency[frequent] >= FREQUENT
        chosen = np.concatenate([frequent[many][: N_WORDS // 2], frequent[~many]])[:N_WORDS]
        found = []
        for word in chosen.tolist():
            every, once = around.occurrences((word,))
            if not len(once):
                continue
            labels = around.labels[words.rows[once]]
            label = int(np.bincount(labels).argmax())
            once = np.sort(around.some(once[labels == label]))
            if len(once) < SIZES[0]:
                continue
            left, right = words.ids[once - 1], words.ids[once + 1]
            rest = around.rest(words.rows[once], [((word,), every)])
            seam = (around.met(left, right) > 0)[:, None]
            values = np.hstack([around.vectors[left], around.vectors[right], rest, seam])
            found.append((label, values[np.argsort(around.lot[once])]))
        return found

    def _deviations_of(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean deviations and seams of the words with ``size`` occurrences; and which these are."""
        enough = [i for i, (_, values) in enumerate(self._words) if len(values) >= size]
        which = np.array(enough, dtype=np.int64)
        rows = [
            self._standard(self._words[i][1][:size].mean(axis=0), self._words[i][0]) for i in which
        ]
        width = len(BLOCKS) * self.surroundings.components + 1
        return np.array(rows).reshape(len(rows), width), which

    def _random_places(self, size: int) -> np.ndarray:
        """The same of random places in random texts, half of the time in those of one class."""
        around, words = self.surroundings, self.surroundings.words
        gaps, gap_rows = around.gaps, words.rows[around.gaps]
        begins = np.searchsorted(gap_rows, np.arange(len(around.labels) + 1))
        texts = [np.flatnonzero(around.labels == label) for label in around.classes]
        rng = np.random.default_rng(around.seed)
        rows = []
        for turn in range(N_PLACES):
            own = int(rng.integers(len(texts)))
            pool = texts[own] if turn % 2 else np.arange(len(around.labels))
            chosen = np.sort(rng.choice(pool, size, replace=len(pool) < size))
            n_gaps = begins[chosen + 1] - begins[chosen]
            right = gaps[begins[chosen] + (rng.random(size) * n_gaps).astype(np.int64)]
            left = words.ids[right - 1]
            seam = (around.met(left, words.ids[right]) > 1).mean()  # it meets here anyway
            mean = [
                around.vectors[left].mean(axis=0),
                around.vectors[words.ids[right]].mean(axis=0),
                around.texts[chosen].mean(axis=0),
                [seam],
            ]
            rows.append(self._standard(np.concatenate(mean), around.classes[own]))
        return np.array(rows)

    def _standard(self, mean: np.ndarray, label: int) -> np.ndarray:
        """Means of left, right, rest and seam, the first three as deviations."""
        around, k = self.surroundings, self.surroundings.components
        means = zip(BLOCKS, (mean[:k], mean[k : 2 * k], mean[2 * k : 3 * k]), strict=True)
        deviations = [around.aside(block, own, label) for block, own in means]
        return np.concatenate([*deviations, mean[3 * k :]])

    def _null(self, size: int, blocks: tuple[str, ...]) -> Null:
        """Where ``sizes`` has that one."""
        deviations, which = self._deviations(size)
        k = self.surroundings.components
        columns = np.concatenate([np.arange(k) + BLOCKS.index(block) * k for block in blocks])
        fold = self._fold[which]
        covariances = [
            _natural_axes(deviations[fold != out][:, columns], size) for out in range(FOLDS)
        ]
        natural = np.empty(len(which))
        for out, axes in enumerate(covariances):
            natural[fold == out] = _ratio(deviations[fold == out][:, columns], axes, size)
        places = self._places(size)
        inserted = np.mean([_ratio(places[:, columns], axes, size) for axes in covariances], axis=0)
        seams = (deviations[:, -1], places[:, -1]) if len(blocks) == len(BLOCKS) else None
        nulls = [
            _scored(natural, inserted, seams, counts, covariances, size)
            for counts in (SEAM_COUNTS if seams else (0.0,))
        ]
        return min(nulls, key=lambda null: float(np.median(null.inserted)))


def _scored(
    natural: np.ndarray,
    inserted: np.ndarray,
    seams: tuple[np.ndarray, np.ndarray] | None,
    seam_counts: float,
    covariances: list[tuple[np.ndarray, np.ndarray]],
    size: int,
) -> Null:
    """The null where the seam counts so much beside the ratio."""
    from scipy.stats import norm

    scores, others, seam = natural, inserted, 1.0
    if seams is not None:
        seam = float(seams[1].mean())
        scores = scores - seam_counts * np.minimum(seams[0], seam)
        others = others - seam_counts * np.minimum(seams[1], seam)
    centre = float(np.median(scores))
    drops = [(centre - np.quantile(scores, q)) / -norm.ppf(q) for q in QUANTILES]
    scale = max(*drops, TINY)
    return Null(size, covariances, seam_counts, seam, centre, scale, (others - centre) / scale)


def _natural_axes(deviations: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of the natural means' covariance, chance taken off."""
    own = deviations.T @ deviations / len(deviations) - np.eye(deviations.shape[1]) / size
    values, axes = np.linalg.eigh(own)
    return np.maximum(values, 0.0), axes


def _ratio(means: np.ndarray, axes: tuple[np.ndarray, np.ndarray], size: int) -> np.ndarray:
    """Logarithm of the quadratic part of the log likelihood ratio, natural over inserted."""
    values, vectors = axes
    turned = means @ vectors
    weight = size - 1 / (values + 1 / size)
    return np.log((turned**2 @ weight) / 2 + TINY)
