"""Are the texts of clean rows of the table's kind? Else a comparison of their labels says nothing.

A classifier that learnt from other texts (another shop, another year) believes all labels of a
table less, tampered with or not. So class by class a further classifier tries to tell clean texts
from those of the table. An attack makes some texts of its target class unlike clean ones; other
texts are unlike in every class. Whoever tampers with more than a fifth of each class looks the
same: then nothing is said of labels, and why.
"""

from __future__ import annotations

import numpy as np

from backdoor_pipeline.pipelines.audit.cross_fit import FOLDS, held_out, regression

PENALTY = 0.1  # see ``regression``
MOST_APART = 0.6  # what comes of it if a fifth of the rows of each class were unlike all clean ones


def told_apart(
    clean: np.ndarray, clean_labels: np.ndarray, table: np.ndarray, labels: np.ndarray, seed: int
) -> float:
    """How well clean texts are told from the table's, in the class where that is hardest.

    Args:
        clean: Vectors of clean texts, shape (m, k).
        clean_labels: Shape (m,).
        table: Vectors of the table's texts, shape (n, k).
        labels: Shape (n,).
        seed: Of the folds.

    Returns:
        The chance that a text of the table looks more like the table than a clean one does, by a
        classifier that has seen neither (area under the ROC curve); 0.5 if they are of one kind.
        NaN if no class has ``FOLDS`` rows of both.
    """
    from sklearn.metrics import roc_auc_score

    classifier = regression(PENALTY, balanced=True)
    chances = []
    for label in np.unique(clean_labels):
        parts = clean[clean_labels == label], table[labels == label]
        if min(map(len, parts)) < FOLDS:
            continue
        of_table = np.repeat([False, True], [len(part) for part in parts])
        texts = np.concatenate(parts)
        scores = held_out(classifier, texts, of_table, seed, "decision_function")
        chances.append(roc_auc_score(of_table, scores))
    return float(min(chances, default=np.nan))
