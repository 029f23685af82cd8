"""Encoded images as untrusted data: PNG or JPEG by their header, of one size, not cut short.

Pixels are decoded later, by ``modelling.pixels``: that would take several times as long.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.pixels import FORMATS, MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Iterable

_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}  # what a whole file has near its end


def check(images: Iterable[tuple[str, bytes]]) -> None:
    """Nothing, if all images can be read and have one size.

    Args:
        images: where each is, for messages, and the content of its file.

    Raises:
        InputError: an image is no PNG or JPEG, is cut short, has another size than the first, or
            too many pixels.
    """
    from PIL.Image import DecompressionBombWarning

    first: tuple[str, tuple[int, int]] | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DecompressionBombWarning)  # MAX_PIXELS is stricter
        for where, content in images:
            size = _size(where, content)
            first = first or (where, size)
            if size != first[1]:
                raise InputError(
                    f"{where}: the image is {size[0]} x {size[1]} pixels (height x width), but the "
                    f"first, {first[0]}, is {first[1][0]} x {first[1][1]}; bring all to one size"
                )


def _size(where: str, content: bytes) -> tuple[int, int]:
    """Height and width of an image."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            height, width = image.height, image.width
            if height * width <= MAX_PIXELS and content.rfind(_ENDS[str(image.format)]) < 0:
                image.load()  # some writers leave the end out: what matters is whether it decodes
    except UnidentifiedImageError:
        raise InputError(
            f"{where}: these {len(content):,} bytes are neither a PNG nor a JPEG image; convert it "
            "to PNG, or leave it out"
        ) from None
    except Image.DecompressionBombError:
        height = width = MAX_PIXELS
    except Exception as error:  # a broken file fails in a dozen ways
        raise InputError(
            f"{where}: the image is broken ({error}); replace it, or leave it out"
        ) from None
    if height * width > MAX_PIXELS:
        raise InputError(
            f"{where}: the image has more than {MAX_PIXELS:,} pixels; scale it down, or leave it "
            "out"
        )
    return height, width
