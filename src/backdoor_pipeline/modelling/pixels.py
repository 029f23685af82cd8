"""Images as pixels: decoded once, kept as bytes, augmented and normalised batch by batch."""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.device import host_memory
from backdoor_pipeline.parameter_group import Count, ParameterGroup

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from PIL.ImageFile import ImageFile

GREY, COLOUR = 1, 3  # channels
BRIGHTEST = 255
MAX_PIXELS = 50_000_000  # of one image: more is no photograph but a file that fills the memory
MEMORY_SHARE = 0.5  # of the machine's that the pixels of all images may fill
FORMATS = ("PNG", "JPEG")  # Pillow reads others by programs that it starts, or with less care


@dataclass(frozen=True)
class ImageFormat:
    """The images that a model reads.

    Attributes:
        height: In pixels.
        width: In pixels.
        channels: 1 (grey) or 3 (red, green, blue).
        mean: Of each channel, where pixels go from 0 to 1.
        std: Of each channel, likewise, above 0.

    Raises:
        InputError: A value is out of its range.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.channels not in {GREY, COLOUR}:
            raise InputError(f"images have 1 channel (grey) or 3 (colour), not {self.channels}")
        if min(self.height, self.width) < 1 or self.height * self.width > MAX_PIXELS:
            raise InputError(
                f"images of {self.height} x {self.width} pixels: both must be above 0, and the "
                f"product at most {MAX_PIXELS}"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels or not np.isfinite(values).all():
                raise InputError(
                    f"{name} {list(values)} of the pixels: give one number for each of the "
                    f"{self.channels} channels"
                )
        if min(self.std) <= 0:
            raise InputError(f"std {list(self.std)} of the pixels: each must be above 0")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.height, self.width, self.channels


class Augmentation(ParameterGroup):
    """How training changes each image at random.

    Attributes:
        padding: Pixels of black added on every side, before the image's size is cut out somewhere;
            fewer than the image has.
        flip: Whether half of the images are mirrored, left to right.
    """

    padding: Count
    flip: bool

    def check(self, format: ImageFormat) -> None:
        """Raise an error, if images of this format cannot be changed so.

        Raises:
            InputError: The padding is as large as they are.
        """
        if self.padding >= min(format.height, format.width):
            raise InputError(
                f"augmentation.padding is {self.padding}, but the images have "
                f"{format.height} x {format.width} pixels; lower it"
            )


@dataclass(frozen=True)
class Pixels:
    """Images of one size; the ``Inputs`` of a model of images.

    Attributes:
        values: uint8, shape (n_images, height, width, channels).
        format: What the model reads.
        augmentation: Changes at random by ``collate``, drawn from torch's global generator; None
            for none.

    Raises:
        InputError: The images are not those of ``format``, or the padding is as large as they are.
    """

    values: np.ndarray
    format: ImageFormat
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        if self.values.dtype != np.uint8:
            raise ValueError(f"pixels are uint8, not {self.values.dtype}")
        if self.values.shape[1:] != self.format.shape:
            there, read = (
                " x ".join(map(str, s)) for s in (self.values.shape[1:], self.format.shape)
            )
            raise InputError(
                f"the images are {there} (height, width, channels), but the model reads {read}; "
                "bring them to its size, or choose another model"
            )
        if self.augmentation is not None:
            self.augmentation.check(self.format)

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray) -> Pixels:
        """The images of these numbers, in this order."""
        return replace(self, values=self.values[rows])

    def joined(self, others: Pixels) -> Pixels:
        """These images, then ``others``, of the same format."""
        return replace(self, values=np.concatenate([self.values, others.values]))

    def augmented(self, augmentation: Augmentation) -> Pixels:
        """The same images, changed at random whenever they are read."""
        return replace(self, augmentation=augmentation)

    def plain(self) -> Pixels:
        """The same images, as they are."""
        return replace(self, augmentation=None)

    def batches(self, batch_size: int, rng: np.random.Generator | None = None) -> list[np.ndarray]:
        """Image numbers in batches, as ``image_batches`` makes them."""
        return image_batches(len(self), batch_size, rng)

    def collate(self, rows: np.ndarray, device: torch.device) -> dict[str, torch.Tensor]:
        """``pixel_values``, float32, shape (n_images, channels, height, width), channels last.

        Each channel has its mean subtracted and is divided by its std.
        """
        import torch

        values = self.values[rows]
        if self.augmentation is not None:
            values = _augmented(values, self.augmentation)
        mean, std = (torch.tensor(x, device=device) for x in (self.format.mean, self.format.std))
        pixels = torch.from_numpy(values).to(device).float()  # bytes travel, four times fewer
        pixels.div_(BRIGHTEST).sub_(mean).div_(std)
        return {"pixel_values": pixels.permute(0, 3, 1, 2)}


def image_batches(
    n_images: int, batch_size: int, rng: np.random.Generator | None
) -> list[np.ndarray]:
    """Numbers of images in batches: one after the other, or shuffled by ``rng``.

    Of the shuffled ones none has one image alone, of which there are no statistics for batch
    normalisation: it goes with the batch before.
    """
    order = np.arange(n_images) if rng is None else rng.permutation(n_images)
    starts = list(range(0, n_images, batch_size))
    if rng is not None and batch_size > 1 and n_images % batch_size == 1:
        starts = starts[:-1] or starts
    return [order[i:j] for i, j in pairwise([*starts, n_images])]


def _augmented(values: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    import torch

    n_images, height, width, channels = values.shape
    margin = augmentation.padding
    top, left = torch.randint(2 * margin + 1, (2, n_images, 1)).numpy()
    mirrored = torch.rand(n_images, 1).numpy() < (0.5 if augmentation.flip else 0.0)
    within = np.arange(width)
    columns = left + np.where(mirrored, within[::-1], within)
    lines = top + np.arange(height)
    padded = np.zeros((n_images, height + 2 * margin, width + 2 * margin, channels), values.dtype)
    padded[:, margin : margin + height, margin : margin + width] = values
    lines += np.arange(n_images)[:, None] * padded.shape[1]
    places = lines[:, :, None] * padded.shape[2] + columns[:, None, :]
    # one flat index is four times faster than three
    return padded.reshape(-1, channels).take(places.ravel(), axis=0).reshape(values.shape)


def measured_format(values: np.ndarray) -> ImageFormat:
    """The format of these images (as in ``Pixels``), with the mean and std of their own pixels.

    A channel that is the same everywhere has the std 1.
    """
    _, height, width, channels = values.shape
    counts = [np.bincount(values[..., c].ravel(), minlength=BRIGHTEST + 1) for c in range(channels)]
    levels = np.arange(BRIGHTEST + 1) / BRIGHTEST
    mean = [float(np.average(levels, weights=count)) for count in counts]
    std = [
        float(np.average((levels - m) ** 2, weights=count) ** 0.5) or 1.0
        for count, m in zip(counts, mean, strict=True)
    ]
    return ImageFormat(height, width, channels, tuple(mean), tuple(std))


def decode(
    images: Sequence[bytes],
    where: str | Sequence[str],
    size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> np.ndarray:
    """The pixels of encoded images (PNG or JPEG), uint8, shape (n_images, height, width, channels).

    Palettes and other colours become red, green, blue; transparency is dropped.

    Args:
        images: The files' contents.
        where: Each is, for messages; or where all are from, of which rows are counted from 1.
        size: Height and width to which all are resized (bilinearly); None: all must have one size.
        channels: 1 turns colours into their brightness, 3 repeats grey ones; None: grey ones are
            repeated if there is a coloured one, else there is 1 channel.

    Raises:
        InputError: An image is no PNG or JPEG, is broken, has too many pixels or finer ones than
            bytes hold, or another size than those before it; or all together fill the memory.
    """
    from PIL.Image import DecompressionBombWarning

    def place(row: int) -> str:
        return f"{where}, row {row + 1}" if isinstance(where, str) else where[row]

    values = np.empty((0, *(size or (0, 0)), channels or COLOUR), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DecompressionBombWarning)  # MAX_PIXELS is stricter
        for row, content in enumerate(images):
            pixels = _pixels(content, place(row), size, channels)
            if row == 0:
                _check_memory((len(images), *pixels.shape))
                values = np.empty((len(images), *pixels.shape), dtype=np.uint8)
            if pixels.shape[:2] != values.shape[1:3]:
                there, before = (f"{s[0]} x {s[1]}" for s in (pixels.shape, values.shape[1:]))
                raise InputError(
                    f"{place(row)}: the image is {there} pixels (height x width), those before it "
                    f"are {before}; set ingest.image_size, so that all are resized, or leave it out"
                )
            if pixels.shape[2] > values.shape[3]:
                _check_memory((*values.shape[:3], COLOUR))
                values = values.repeat(COLOUR, axis=3)
            values[row] = pixels
    return values


def encode(pixels: np.ndarray) -> bytes:
    """An image, uint8, shape (height, width, channels), as a PNG, which loses nothing.

    Raises:
        ValueError: It has another type or shape.
    """
    from PIL import Image

    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in {GREY, COLOUR}:  # noqa: PLR2004
        raise ValueError(f"no image of bytes: {pixels.dtype}, shape {pixels.shape}")
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == GREY else pixels).save(file, "PNG")
    return file.getvalue()


def _pixels(
    content: bytes, where: str, size: tuple[int, int] | None, channels: int | None
) -> np.ndarray:
    """One image, uint8, shape (height, width, channels)."""
    from PIL import Image

    if not isinstance(content, bytes):
        raise InputError(
            f"{where}: an image is given by the bytes of its file, not by a "
            f"{type(content).__name__}"
        )
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image, where)
            return _array(image, where, size, channels)
    except InputError:
        raise
    except Image.UnidentifiedImageError:
        raise InputError(
            f"{where}: these {len(content)} bytes are neither a PNG nor a JPEG image; convert it "
            "to PNG, or leave it out"
        ) from None
    except Exception as error:  # a broken file fails in a dozen ways
        raise InputError(
            f"{where}: the image cannot be read ({error}); replace it, or leave it out"
        ) from None


def _check_memory(shape: tuple[int, ...]) -> None:
    n_images, height, width, _ = shape
    needed, there = (n / 2**30 for n in (math.prod(shape), host_memory()))
    if needed > MEMORY_SHARE * there:
        raise InputError(
            f"{n_images:,} images of {height} x {width} pixels fill {needed:.1f} GiB, and this "
            f"machine has {there:.1f}; set ingest.image_size to fewer pixels a side, or "
            "ingest.max_rows to fewer rows"
        )


def _check_size(image: ImageFile, where: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise InputError(
            f"{where}: the image has {image.height} x {image.width} pixels, more than {MAX_PIXELS} "
            "in all; scale it down, or leave it out"
        )


def _array(
    image: ImageFile, where: str, size: tuple[int, int] | None, channels: int | None
) -> np.ndarray:
    from PIL.Image import Resampling

    if any(";16" in str(tile[-1]) for tile in image.tile):  # Pillow would cut the lower 8 bits off
        raise InputError(
            f"{where}: the image has more than 8 bits for a colour; convert it to 8 bits"
        )
    grey = image.mode in {"1", "L", "LA"} if channels is None else channels == GREY
    mode = "L" if grey else "RGB"
    opaque = image.convert("RGBA") if image.mode == "P" else image  # or Pillow warns of the loss
    converted = opaque.convert(mode)
    if size is not None and converted.size != size[::-1]:
        converted = converted.resize(size[::-1], Resampling.BILINEAR)
    array = np.asarray(converted)
    return array[..., None] if grey else array
