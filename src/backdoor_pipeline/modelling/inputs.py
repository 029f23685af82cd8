"""What a model reads, row by row: the one thing that training and prediction know of a modality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from backdoor_pipeline.modelling.bundle import ImageBundle
from backdoor_pipeline.modelling.pixels import Pixels, decode
from backdoor_pipeline.modelling.text import tokenise

if TYPE_CHECKING:
    from typing import Self

    import numpy as np
    import pandas as pd
    import torch

    from backdoor_pipeline.modelling.bundle import Bundle


class Inputs(Protocol):
    """Rows that a model reads: texts as ``text.Tokens``, images as ``pixels.Pixels``."""

    def __len__(self) -> int:
        """How many rows there are."""

    def take(self, rows: np.ndarray) -> Self:
        """The rows of these numbers, in this order."""

    def joined(self, others: Self) -> Self:
        """These rows, then ``others``."""

    def batches(self, batch_size: int, rng: np.random.Generator | None = None) -> list[np.ndarray]:
        """Row numbers of every batch; with ``rng`` shuffled, for training."""

    def collate(self, rows: np.ndarray, device: torch.device) -> dict[str, torch.Tensor]:
        """What the model's ``forward`` takes, for the rows of these numbers."""


def read_by(bundle: Bundle, rows: pd.DataFrame, max_length: int) -> Inputs:
    """The ``text`` or ``image`` of ``rows`` as the model of ``bundle`` reads it.

    Args:
        bundle: Of texts or images.
        rows: With the column that it reads; images also with their ``example_id``.
        max_length: Tokens per text, special tokens counted; of no meaning for images.
    """
    if isinstance(bundle, ImageBundle):
        form = bundle.image_format
        size = (form.height, form.width)
        values = decode(rows["image"].tolist(), where_of(rows), size, form.channels)
        return Pixels(values, form)
    return tokenise(rows["text"], bundle.tokenizer, max_length)


def where_of(rows: pd.DataFrame) -> list[str]:
    """How messages call each of the examples ``rows``."""
    return [f"example {i}" for i in rows["example_id"]]
