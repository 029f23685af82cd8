"""What the image attacks share: images in handy portions, and the way back to bytes.

Images are uint8, shape (n_rows, height, width, n_channels), as they are stored. Triggers are put on
them as stored, before any augmentation and normalisation, for training and for test rows alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_VALUES = 2**22  # bytes of images that are worked on at once; floats take eight times as much
LARGEST = np.iinfo(np.uint8).max


def chunks(images: np.ndarray) -> Iterator[slice]:
    """Runs of rows that are worked on at once, so that large data need little memory."""
    n_rows = max(1, CHUNK_VALUES // max(1, int(np.prod(images.shape[1:]))))
    for start in range(0, len(images), n_rows):
        yield slice(start, start + n_rows)


def pixels_of(share: float, shape: tuple[int, ...]) -> int:
    """A share of the shorter side of an image of this height and width, in pixels, at least 1."""
    return max(1, round(share * min(shape)))


def middle(length: int, size: int) -> slice:
    """The ``size`` pixels in the middle of ``length``; up or left of it where that is between."""
    start = (length - size) // 2
    return slice(start, start + size)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Values of 255, rounded to the nearest (a half to the even one) and kept in 0..255, uint8."""
    return np.clip(np.rint(values), 0, LARGEST).astype(np.uint8)
