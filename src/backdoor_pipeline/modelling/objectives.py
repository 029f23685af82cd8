"""What a training minimises: functions of a batch's logits and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    label_weights: np.ndarray | None = None,
    class_balanced: bool = False,
    minimum_confidence: float = 0.0,
) -> torch.Tensor:
    """The mean cross-entropy of a batch, in nats, a scalar.

    Args:
        logits: Shape (n_rows, n_classes).
        labels: Shape (n_rows,), int64.
        label_weights: Of a row by its label, shape (n_classes,), above 0; None: all the same.
        class_balanced: Labels of the batch weigh the same instead, however many rows they have in
            it.
        minimum_confidence: Rows whose label is less probable than this times 1 / n_classes are left
            out: they have no gradient. The others of their label take their weight, if there are
            any; and the whole is multiplied by the share of rows that is left.

    Raises:
        ValueError: Both ``label_weights`` and ``class_balanced`` are given.
    """
    import torch

    if class_balanced and label_weights is not None:
        raise ValueError("labels are weighed by label_weights or class_balanced, not by both")
    weights = None if label_weights is None else torch.from_numpy(label_weights).to(logits)
    if not (class_balanced or minimum_confidence):
        return torch.nn.functional.cross_entropy(logits, labels, weights)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    n_classes = logits.shape[1]
    kept = (losses.detach().neg().exp() >= minimum_confidence / n_classes).to(losses)
    members = torch.nn.functional.one_hot(labels, n_classes).to(losses)
    means = (losses * kept) @ members / (kept @ members).clamp(min=1)
    whole = members.sum(dim=0)
    if class_balanced:
        whole = whole.clamp(max=1)
    elif weights is not None:
        whole = whole * weights
    return kept.mean() * (whole * means).sum() / whole.sum()


def balanced_weights(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """The weight of a row by its label, shape (n_classes,): all labels weigh the same in sum.

    The mean weight of the rows is 1 where every label occurs; one that does not has the weight of a
    label of one row.
    """
    counts = np.bincount(labels, minlength=n_classes).clip(min=1)
    return len(labels) / (n_classes * counts)
