"""Does the presence of a token or n-gram go with a label? Closed forms over the whole table.

The label z-score, the exact one-sided p-value of Fisher's test, Benjamini-Hochberg q-values, and
the two-sample z-score against clean rows where some are declared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Association:
    """Of each item (token or n-gram) with each label; arrays of shape (n_items, n_labels)."""

    count: np.ndarray  # texts that hold the item, shape (n_items,)
    hits: np.ndarray
    z: np.ndarray
    p: np.ndarray

    @property
    def purity(self) -> np.ndarray:
        """The share of the label among the texts that hold the item."""
        return self.hits / np.maximum(self.count, 1)[:, None]


def associate(
    rows: np.ndarray,
    items: np.ndarray,
    n_items: int,
    labels: np.ndarray,
    n_labels: int,
    active: np.ndarray | None = None,
) -> Association:
    """Label z-scores and exact one-sided p-values of the presence of items.

    Args:
        rows, items: One entry per text and item in it.
        n_items: Number of items.
        labels: Shape (n_texts,).
        n_labels: Number of labels.
        active: bool, shape (n_texts,); the texts that count. None: all.

    With N texts, N_c of label c, n of them with the item and h of these of label c, h is
    hypergeometric if presence and label are independent: mean n N_c / N, variance
    n (N_c / N) (1 - N_c / N) (N - n) / (N - 1). Where h is not above its mean, p is set to 1.
    """
    from scipy.stats import hypergeom

    active = np.ones(len(labels), dtype=bool) if active is None else active
    total = int(active.sum())
    per_label = np.bincount(labels[active], minlength=n_labels)
    kept = active[rows]
    table = np.bincount(
        items[kept] * n_labels + labels[rows[kept]], minlength=n_items * n_labels
    ).reshape(n_items, n_labels)
    count = table.sum(axis=1)
    share = per_label / total
    variance = np.outer(count * (total - count) / max(total - 1, 1), share * (1 - share))
    z = (table - np.outer(count, share)) / np.sqrt(np.maximum(variance, 1e-12))
    p = np.ones(table.shape)
    # the others are no candidates, and their tails are slow to sum
    item, label = np.nonzero(table > np.outer(count, share) + 1e-9)
    p[item, label] = hypergeom.sf(table[item, label] - 1, total, per_label[label], count[item])
    return Association(count, table, np.where(variance > 0, z, 0.0), np.clip(p, 0.0, 1.0))


def shift(
    training: Association, clean: Association, n_training: np.ndarray, n_clean: np.ndarray
) -> Association:
    """``training`` with the smaller of its z and the two-sample z against clean rows; p likewise.

    Args:
        training: Association in the training rows.
        clean: The same items in the clean rows.
        n_training, n_clean: Rows of each label, each of shape (n_labels,).
    """
    from scipy.stats import norm

    n_training, n_clean = np.maximum(n_training, 1), np.maximum(n_clean, 1)
    pooled = (training.hits + clean.hits) / (n_training + n_clean)
    variance = pooled * (1 - pooled) * (1 / n_training + 1 / n_clean)
    excess = training.hits / n_training - clean.hits / n_clean
    z = np.where(variance > 0, excess / np.sqrt(np.maximum(variance, 1e-12)), 0.0)
    return Association(
        training.count,
        training.hits,
        np.minimum(training.z, z),
        np.maximum(training.p, norm.sf(z)),
    )


def q_values(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg q-values, the shape kept."""
    flat = p.ravel()
    order = np.argsort(flat, kind="stable")
    scaled = flat[order] * len(flat) / np.arange(1, len(flat) + 1)
    q = np.empty_like(flat)
    q[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return np.minimum(q, 1.0).reshape(p.shape)


def associate_active(
    rows: np.ndarray,
    items: np.ndarray,
    n_items: int,
    labels: np.ndarray,
    active: np.ndarray,
    is_clean: np.ndarray,
) -> Association:
    """Association in the active rows, shifted against the clean ones if there are any."""
    n_labels = int(labels.max()) + 1
    association = associate(rows, items, n_items, labels, n_labels, active)
    if not is_clean.any():
        return association
    return shift(
        association,
        associate(rows, items, n_items, labels, n_labels, is_clean),
        np.bincount(labels[active], minlength=n_labels),
        np.bincount(labels[is_clean], minlength=n_labels),
    )
