"""Images in a page that opens offline: their pixels are part of it, and nothing else of a file."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from backdoor_pipeline.formatting import number
from backdoor_pipeline.modelling.pixels import BRIGHTEST, decode, encode

LONGEST = 128  # pixels of a side in the page: larger images are shrunk, smaller ones enlarged
QUALITY = 90  # of what is shrunk, as JPEG
WHERE = "an image of the report"


class Difference(NamedTuple):
    """Where two images differ: drawn, and in words."""

    picture: Markup
    said: str


def picture(image: bytes, alt: str = "image") -> Markup:
    """An image (PNG or JPEG) as an element of a page.

    Raises:
        InputError: It cannot be read.
    """
    pixels = decode([image], WHERE)[0]
    if max(pixels.shape[:2]) > LONGEST:
        return _element(_shrunk(pixels), "jpeg", *_shown(pixels), alt)
    return _element(encode(pixels), "png", *_shown(pixels), alt)


def difference(before: bytes, after: bytes) -> Difference:
    """What was done to an image, made so bright that the largest change is white.

    Of an image too large for the page, each pixel shows the largest change of those it stands for.

    Raises:
        InputError: An image cannot be read, or the two have different sizes.
    """
    one, other = decode([before, after], WHERE).astype(np.int16)
    change = np.abs(other - one)
    factor = BRIGHTEST / max(int(change.max()), 1)
    lit = (factor * change).round().astype(np.uint8)
    for axis in (0, 1):
        step = -(-max(change.shape) // LONGEST)
        lit = np.maximum.reduceat(lit, np.arange(0, lit.shape[axis], step), axis=axis)
    element = _element(encode(lit), "png", *_shown(change), "difference")
    return Difference(element, _place(change.any(axis=2), factor))


def _place(changed: np.ndarray, factor: float) -> str:
    """In words, which pixels were changed, bool, shape (height, width)."""
    if not changed.any():
        return "no pixel differs"
    sides = []
    for name, axis in (("lines", 1), ("columns", 0)):
        numbers = np.flatnonzero(changed.any(axis=axis)) + 1
        sides.append(f"{name} {numbers[0]}\u2013{numbers[-1]}")
    count = f"{int(changed.sum()):,} of {changed.size:,} pixels differ"
    return f"{count}, {' and '.join(sides)}; difference \u00d7 {number(factor)}"


def _shown(pixels: np.ndarray) -> tuple[int, int]:
    """Height and width in the page: of a small image, a whole number of times its own."""
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if longest <= LONGEST:
        return height * (LONGEST // longest), width * (LONGEST // longest)
    return max(1, height * LONGEST // longest), max(1, width * LONGEST // longest)


def _shrunk(pixels: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    image = Image.fromarray(pixels.squeeze(axis=2) if pixels.shape[2] == 1 else pixels)
    image.resize(_shown(pixels)[::-1]).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _element(file: bytes, kind: str, height: int, width: int, alt: str) -> Markup:
    encoded = base64.b64encode(file).decode("ascii")
    return Markup(
        '<img class="picture" height="{}" width="{}" alt="{}" src="data:image/{};base64,{}">'
    ).format(height, width, alt, kind, encoded)
