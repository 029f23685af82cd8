"""The exact test behind every comparison of two models or methods on the same examples."""

from __future__ import annotations

import numpy as np


def sign_flips(differences: np.ndarray) -> float:
    """How often integers whose signs are fair coins have a sum as far from 0 as theirs, exactly.

    Of differences of one size, as in McNemar's test, this is the binomial test.
    """
    from scipy.stats import binomtest

    sizes = np.sort(np.abs(differences[differences != 0]))
    if not len(sizes):
        return 1.0
    if sizes[0] == sizes[-1]:
        return float(binomtest(int((differences > 0).sum()), len(sizes)).pvalue)
    chances = np.ones(1)  # of each sum of the sizes whose coin shows heads
    for size in sizes:
        tails = np.zeros(size)
        chances = (np.append(chances, tails) + np.append(tails, chances)) / 2
    sums = 2 * np.arange(len(chances)) - sizes.sum()
    return min(1.0, float(chances[np.abs(sums) >= abs(differences.sum())].sum()))
