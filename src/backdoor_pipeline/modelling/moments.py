"""Means and principal axes of many vectors."""

from __future__ import annotations

import numpy as np


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


def principal_axes(centred: np.ndarray, components: int, seed: int) -> np.ndarray:
    """The leading principal axes, orthonormal columns, shape (dimensions, components)."""
    from sklearn.utils.extmath import randomized_svd

    components = min(components, *centred.shape)
    return randomized_svd(centred, components, n_iter=7, random_state=seed)[2].T
