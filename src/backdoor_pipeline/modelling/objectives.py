"""What a training minimises: functions of a batch's logits and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    even_labels: bool = False,
    doubt_below: float = 0.0,
) -> torch.Tensor:
    """The mean cross-entropy of a batch, in nats, a scalar.

    Args:
        logits: Shape (n_rows, n_classes).
        labels: Shape (n_rows,), int64.
        even_labels: The mean of each label that occurs is taken first, then their mean: labels
            count the same, however many rows they have.
        doubt_below: Rows whose label is less probable than this times 1 / n_classes are doubted:
            they have no gradient, and the others no larger one in sum.
    """
    import torch

    if not even_labels and not doubt_below:
        return torch.nn.functional.cross_entropy(logits, labels)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    n_classes = logits.shape[1]
    kept = (losses.detach().neg().exp() >= doubt_below / n_classes).to(losses)
    if not even_labels:
        return (losses * kept).mean()
    members = torch.nn.functional.one_hot(labels, n_classes).to(losses)
    means = (losses * kept) @ members / (kept @ members).clamp(min=1)
    return kept.mean() * means.sum() / (members.sum(dim=0) > 0).sum()
