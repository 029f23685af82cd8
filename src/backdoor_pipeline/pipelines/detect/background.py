"""Whether a text without a phrase is an ordinary text, and what label it asks for.

See ``insertion_evidence``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from backdoor_pipeline.modelling.moments import inserted_mean, principal_axes
from backdoor_pipeline.modelling.prediction import embed
from backdoor_pipeline.modelling.text import Tokens
from backdoor_pipeline.pipelines.detect.insertion_evidence import (
    SMALLEST_AXIS,
    Effect,
    effect_size,
)

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.bundle import ModelBundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.words import Phrase
    from backdoor_pipeline.pipelines.detect.phrases import TokenWords

CLIP = 4.0  # standard deviations; a few odd texts must not make a mean
SMALLEST_CLASS = 20  # rows a class needs to enter the mixture
SMALLEST_BACKGROUND = 20  # rows without the phrase, to say what is ordinary
PROBABILITY_FLOOR = 0.02  # labels are never more certain than this


class Remainder(NamedTuple):
    """What the texts say without the phrase."""

    effect: Effect
    residual_z: float
    expected: float


class Background:
    """Are the texts that are left without a phrase ordinary texts, and what label do they ask for?

    Attributes:
        rows: The texts of the background sample, int64, ascending.
    """

    def __init__(
        self,
        words: TokenWords,
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
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        short = replace(texts, ids=texts.ids[keep], offsets=offsets)
        return embed(self.bundle, short, self.compute)

    def _standardise(self, vectors: np.ndarray) -> np.ndarray:
        return np.clip((vectors - self.centre) / self.scale, -CLIP, CLIP)
