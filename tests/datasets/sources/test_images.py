"""Encoded images that can be read, and what is said of those that cannot."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin, PngImagePlugin

from backdoor_pipeline.datasets.sources import images
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.pixels import MAX_PIXELS


def encoded(kind: str = "PNG", size: tuple[int, int] = (6, 4), mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size[::-1], 7).save(file, kind)
    return file.getvalue()


def png_that_says(height: int, width: int) -> bytes:
    """A PNG of one byte whose header tells another size."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0")),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def check(*contents: bytes) -> None:
    images.check((f"x.parquet, row {row}", one) for row, one in enumerate(contents, start=1))


def test_png_and_jpeg_pass_whatever_their_colours_and_sizes() -> None:
    check()
    check(encoded(), encoded("JPEG"), encoded(mode="L"), encoded(mode="P"), encoded(size=(4, 6)))


def test_a_jpeg_with_further_pictures_in_it_passes() -> None:
    first, second = (Image.new("RGB", (6, 4), colour) for colour in ("red", "blue"))
    file = io.BytesIO()
    first.save(file, "MPO", save_all=True, append_images=[second])
    check(file.getvalue())
    with pytest.raises(InputError, match="the image is broken"):
        check(file.getvalue()[:300])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (b"", "these 0 bytes are neither a PNG nor a JPEG"),
        (b"no image at all", "these 15 bytes are neither a PNG nor a JPEG.*convert it"),
        (encoded("GIF", mode="P"), "neither a PNG nor a JPEG"),
        (encoded("BMP"), "neither a PNG nor a JPEG"),
        (encoded()[:-30], "the image is broken.*replace it"),
        (encoded("JPEG")[:-30], "the image is broken"),
        (png_that_says(MAX_PIXELS, 2), "more than 50,000,000 pixels"),
        (png_that_says(MAX_PIXELS, 20), "more than 50,000,000 pixels"),  # for which Pillow raises
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_the_first_bad_row_is_named(second: bytes, message: str) -> None:
    with pytest.raises(InputError, match=rf"x.parquet, row 2: .*{message}"):
        check(encoded(), second, b"and another")


def test_a_whole_image_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    for kind in (PngImagePlugin.PngImageFile, JpegImagePlugin.JpegImageFile):
        monkeypatch.setattr(kind, "load", refuse)
    check(encoded(), encoded("JPEG"))
    with pytest.raises(AssertionError, match="decoded"):
        Image.open(io.BytesIO(encoded())).load()


def test_an_image_whose_end_is_missing_passes_if_it_decodes() -> None:
    whole = encoded("PNG")
    without_end = whole[: whole.rfind(b"IEND") - 4]
    with Image.open(io.BytesIO(without_end)) as image:
        assert np.asarray(image).shape == (6, 4, 3)
    check(without_end)
