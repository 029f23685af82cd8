"""Encoded images as untrusted data: PNG or JPEG by their header, not cut short.

Pixels are decoded later, by ``modelling.pixels``: that would take several times as long, and in
whichever sizes they are the ingest stage brings them to one.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.pixels import FORMATS, MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Iterable

_END_OF_JPEG = b"\xff\xd9"
_ENDS = {"PNG": b"IEND", "JPEG": _END_OF_JPEG, "MPO": _END_OF_JPEG}
"""What a whole file has near its end; MPO is what Pillow calls a JPEG with further pictures in it,
as telephones take them."""


def check(images: Iterable[tuple[str, bytes]]) -> None:
    """Nothing, if all images seem to be whole.

    Args:
        images: where each is, for messages, and the content of its file.

    Raises:
        InputError: an image is no PNG or JPEG, is cut short, or has too many pixels.
    """
    from PIL.Image import DecompressionBombWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DecompressionBombWarning)  # MAX_PIXELS is stricter
        for where, content in images:
            _check(where, content)


def _check(where: str, content: bytes) -> None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            n_pixels = image.height * image.width
            if n_pixels <= MAX_PIXELS and content.rfind(_ENDS[str(image.format)]) < 0:
                image.load()  # some writers leave the end out: what matters is whether it decodes
    except UnidentifiedImageError:
        raise InputError(
            f"{where}: these {len(content):,} bytes are neither a PNG nor a JPEG image; convert it "
            "to PNG, or leave it out"
        ) from None
    except Image.DecompressionBombError:
        n_pixels = MAX_PIXELS + 1
    except Exception as error:  # a broken file fails in a dozen ways
        raise InputError(
            f"{where}: the image is broken ({error}); replace it, or leave it out"
        ) from None
    if n_pixels > MAX_PIXELS:
        raise InputError(
            f"{where}: the image has more than {MAX_PIXELS:,} pixels; scale it down, or leave it "
            "out"
        )
