"""Many tests at one risk, where some hypotheses deserve more of it than others.

Weighted Benjamini-Hochberg (Genovese, Roeder and Wasserman, Biometrika 93, 2006): p-values are
divided by weights of mean 1 before they are ranked. If every hypothesis is true, the chance of any
rejection is at most the level (Simes: where p-values are independent, or depend on each other
positively), so the smallest q-value is a p-value of "nothing is there".
"""

from __future__ import annotations

import numpy as np

from backdoor_pipeline.modelling.label_association import q_values


def weighted_q_values(p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Q-values of ``p``, shape kept.

    Args:
        p: p-values, shape (n,).
        weights: Not negative, shape (n,); their scale does not matter. They must not depend on
            what the p-values are computed from.
    """
    if not len(p):
        return np.empty(0)
    total = weights.sum()
    relative = weights * len(p) / total if total > 0 else np.ones(len(p))
    scaled = np.divide(p, relative, out=np.ones(len(p)), where=relative > 0)
    return np.asarray(np.minimum(q_values(scaled), 1.0))
