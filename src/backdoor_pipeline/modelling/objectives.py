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
    even_labels: bool = False,
    doubt_below: float = 0.0,
) -> torch.Tensor:
    """The mean cross-entropy of a batch, in nats, a scalar.

    Args:
        logits: Shape (n_rows, n_classes).
        labels: Shape (n_rows,), int64.
        label_weights: Of a row by its label, shape (n_classes,), above 0; None: all the same.
        even_labels: Labels of the batch weigh the same, however many rows they have in it: no batch
            pulls towards the label that it happens to have more of. Not with ``label_weights``.
        doubt_below: Rows whose label is less probable than this times 1 / n_classes are doubted:
            they have no gradient. The others of their label take their weight, so that doubt moves
            no weight from label to label; and the whole is multiplied by the share that is left, so
            that the fewer rows are left, the smaller is the step.
    """
    import torch

    weights = None if label_weights is None else torch.from_numpy(label_weights).to(logits)
    if not (even_labels or doubt_below):
        return torch.nn.functional.cross_entropy(logits, labels, weights)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    n_classes = logits.shape[1]
    kept = (losses.detach().neg().exp() >= doubt_below / n_classes).to(losses)
    members = torch.nn.functional.one_hot(labels, n_classes).to(losses)
    means = (losses * kept) @ members / (kept @ members).clamp(min=1)
    whole = members.sum(dim=0)
    if even_labels:
        whole = whole.clamp(max=1)
    elif weights is not None:
        whole = whole * weights
    return kept.mean() * (whole * means).sum() / whole.sum()


def even_weights(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """The weight of a row by its label, shape (n_classes,): all labels weigh the same in sum.

    The mean weight of the rows is 1 where every label occurs; one that does not has the weight of a
    label of one row.
    """
    counts = np.bincount(labels, minlength=n_classes).clip(min=1)
    return len(labels) / (n_classes * counts)
