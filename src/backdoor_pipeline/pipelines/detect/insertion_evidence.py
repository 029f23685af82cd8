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
words (``neighbours``), mean-pooled last states for the texts (``background``); both reduced to
their leading principal axes. A logistic regression on the text vectors also tells how likely the
label is without the phrase.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TINY = 1e-12  # variance that is none
SMALLEST_AXIS = 1e-3  # of the largest variance; axes below it carry rounding, not meaning


class Effect(NamedTuple):
    """A squared distance in standard deviations: estimate (may be negative) and standard error."""

    value: float
    error: float

    def bound(self, z: float) -> float:
        """The one-sided upper confidence bound at the normal quantile ``z``."""
        return self.value + z * self.error


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
