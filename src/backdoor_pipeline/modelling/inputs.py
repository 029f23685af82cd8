"""What a model reads, row by row: the one thing that training and prediction know of a modality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Self

    import numpy as np
    import torch


class Inputs(Protocol):
    """Rows that a model reads: texts as token ids (``text.Tokens``)."""

    def __len__(self) -> int:
        """How many rows there are."""

    def take(self, rows: np.ndarray) -> Self:
        """The rows of these numbers, in this order."""

    def batches(self, batch_size: int, rng: np.random.Generator | None = None) -> list[np.ndarray]:
        """Row numbers of every batch; with ``rng`` shuffled, for training."""

    def collate(self, rows: np.ndarray, device: torch.device) -> dict[str, torch.Tensor]:
        """What the model's ``forward`` takes, for the rows of these numbers."""
