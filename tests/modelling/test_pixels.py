"""Images as pixels: nothing is lost in files, and a batch is what its formula says."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling import pixels
from backdoor_pipeline.modelling.pixels import (
    Augmentation,
    ImageFormat,
    Pixels,
    decode,
    encode,
    measured_format,
)

CPU = torch.device("cpu")
FORMAT = ImageFormat(5, 4, 3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))


def images(n: int = 6, shape: tuple[int, ...] = FORMAT.shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def file(image: Image.Image, format: str = "PNG", **options) -> bytes:
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


def collated(data: Pixels, rows, seed: int = 0) -> np.ndarray:
    """The batch as images (n, height, width, channels), drawn from ``seed``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        batch = data.collate(np.asarray(rows), CPU)
    assert list(batch) == ["pixel_values"]
    return batch["pixel_values"].permute(0, 2, 3, 1).numpy()


def plain_format(height: int, width: int) -> ImageFormat:
    """Grey images, of which a batch has the bytes divided by 255."""
    return ImageFormat(height, width, 1, mean=(0.0,), std=(1.0,))


class TestFiles:
    @given(
        st.tuples(
            st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])
        ).flatmap(lambda shape: arrays(np.uint8, shape))
    )
    def test_nothing_is_lost(self, values) -> None:
        decoded = decode([encode(image) for image in values], "images")
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, values)

    @pytest.mark.parametrize(
        ("format", "mode", "channels"),
        [
            *(("PNG", mode, 1) for mode in ("1", "L", "LA")),
            *(("PNG", mode, 3) for mode in ("RGB", "RGBA", "P")),
            *(("JPEG", mode, channels) for mode, channels in (("L", 1), ("RGB", 3), ("CMYK", 3))),
        ],
    )
    def test_modes_become_grey_or_colour(self, format, mode, channels) -> None:
        image = Image.new("RGB", (4, 5), (255, 255, 255)).convert(mode)
        decoded = decode([file(image, format)], "images")
        assert decoded.shape == (1, 5, 4, channels)
        np.testing.assert_array_equal(decoded, 255)

    def test_a_palette_becomes_its_colours(self, recwarn) -> None:
        values = images(1, (5, 4, 3)) // 128 * 255
        image = Image.fromarray(values[0]).convert("P", palette=Image.Palette.ADAPTIVE)
        content = file(image, transparency=bytes(range(8)))
        np.testing.assert_array_equal(decode([content], "images"), values)
        assert not recwarn.list

    def test_grey_rows_among_coloured_ones_are_repeated(self) -> None:
        grey, coloured = images(2, (5, 4, 1)), images(1)
        files = [encode(grey[0]), encode(coloured[0]), encode(grey[1])]
        expected = [grey[0].repeat(3, axis=2), coloured[0], grey[1].repeat(3, axis=2)]
        np.testing.assert_array_equal(decode(files, "images"), expected)

    def test_channels_that_are_asked_for(self) -> None:
        grey, coloured = images(1, (5, 4, 1)), images(1)
        files = [encode(grey[0]), encode(coloured[0])]
        np.testing.assert_array_equal(decode(files[:1], "images", channels=3)[..., 2:], grey)
        both = decode(files, "images", channels=1)
        np.testing.assert_array_equal(both[:1], grey)
        weights = np.array([299, 587, 114]) / 1000  # of ITU-R 601
        np.testing.assert_allclose(both[1, ..., 0], coloured[0] @ weights, atol=1)

    def test_a_size_that_is_asked_for(self) -> None:
        half = np.zeros((8, 4, 3), dtype=np.uint8)
        half[4:] = 200
        files = [encode(half), encode(images(1)[0])]
        resized = decode(files, "images", size=(4, 6))
        assert resized.shape == (2, 4, 6, 3)
        assert resized[0, 0].max() == 0
        assert resized[0, -1].min() == 200

    def test_an_image_of_the_size_is_left_as_it_is(self) -> None:
        values = images()
        files = [encode(image) for image in values]
        np.testing.assert_array_equal(decode(files, "images", size=(5, 4)), values)

    def test_no_images(self) -> None:
        assert decode([], "images").shape == (0, 0, 0, 3)
        assert decode([], "images", size=(5, 4), channels=1).shape == (0, 5, 4, 1)

    @pytest.mark.parametrize(
        "spoilt",
        [images().astype(float)[0], images()[0, ..., 0], images(1, (5, 4, 2))[0], images()],
        ids=["float", "two axes", "two channels", "many"],
    )
    def test_what_is_no_image_is_not_encoded(self, spoilt) -> None:
        with pytest.raises(ValueError, match="no image of bytes"):
            encode(spoilt)


class TestBadFiles:
    GOOD = encode(images(1)[0])

    def refused(self, content, *told: str) -> None:
        with pytest.raises(InputError, match=r"train.parquet, row 2: ") as error:
            decode([self.GOOD, content, self.GOOD], "train.parquet")
        with pytest.raises(InputError, match=r"^b.png: "):
            decode([self.GOOD, content, self.GOOD], ["a.png", "b.png", "c.png"])
        for part in told:
            assert part in str(error.value)

    def test_another_size(self) -> None:
        bigger = encode(images(1, (6, 7, 3))[0])
        self.refused(bigger, "6 x 7", "5 x 4", "set ingest.image_size")

    @pytest.mark.parametrize(
        "content", [b"", b"no image", file(Image.new("L", (4, 5)), "BMP")], ids=len
    )
    def test_neither_png_nor_jpeg(self, content) -> None:
        self.refused(content, f"{len(content)} bytes are neither a PNG nor a JPEG")

    @pytest.mark.parametrize("format", ["PNG", "JPEG"])
    def test_cut_off(self, format) -> None:
        whole = file(Image.fromarray(images(1, (40, 40, 3))[0]), format)
        self.refused(whole[: len(whole) // 2], "cannot be read", "replace it, or leave it out")

    @pytest.mark.parametrize("position", [20, 45, 60])
    def test_one_wrong_byte(self, position) -> None:
        content = bytearray(self.GOOD)
        content[position] ^= 0xFF
        self.refused(bytes(content), "row 2")

    @pytest.mark.parametrize(
        "side", [8_000, 12_000, 60_000]
    )  # Pillow warns of the second, and refuses the last
    def test_a_file_that_would_fill_the_memory(self, side, recwarn) -> None:
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        start = b"IHDR" + header
        chunk = struct.pack(">I", len(header)) + start + struct.pack(">I", zlib.crc32(start))
        told = "exceeds limit" if side == 60_000 else f"{side} x {side} pixels, more than 50000000"
        self.refused(self.GOOD[:8] + chunk + self.GOOD[33:], told, "leave it out")
        assert not recwarn.list

    @pytest.mark.parametrize("interlaced", [0, 1])
    @pytest.mark.parametrize(("colours", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
    def test_more_than_eight_bits(self, colours, channels, interlaced) -> None:
        """Grey and coloured PNGs of 16 bits, with and without transparency."""
        lines = np.full((5, 4 * channels), 40_000, dtype=">u2")
        packed = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
        header = struct.pack(">IIBBBBB", 4, 5, 16, colours, 0, 0, interlaced)
        chunks = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
        content = self.GOOD[:8] + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
        self.refused(content, "more than 8 bits for a colour", "convert it")

    def test_pixels_that_fill_the_memory(self, monkeypatch) -> None:
        grey, coloured = encode(images(1, (5, 4, 1))[0]), self.GOOD
        monkeypatch.setattr(pixels, "host_memory", lambda: 2 * 3 * 20)
        assert decode([grey] * 3, "x").shape == (3, 5, 4, 1)
        for many, shape in (([grey] * 4, "4"), ([grey, grey, coloured], "3")):
            with pytest.raises(
                InputError, match=rf"^{shape} images of 5 x 4 pixels .*image_size.*max_rows"
            ):
                decode(many, "x")

    @pytest.mark.parametrize("content", [None, "cat.png", 3])
    def test_no_bytes(self, content) -> None:
        self.refused(content, f"not by a {type(content).__name__}")


class TestFormat:
    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"channels": 4}, "1 channel"),
            ({"height": 0}, "above 0"),
            ({"height": 10**5, "width": 10**5}, "at most"),
            ({"mean": (0.5,)}, "one number for each of the 3 channels"),
            ({"mean": (0.5, 0.5, float("nan"))}, "one number"),
            ({"std": (0.5, 0.0, 0.5)}, "std"),
        ],
    )
    def test_values_out_of_range(self, changes, told) -> None:
        with pytest.raises(InputError, match=told):
            ImageFormat(**{**vars(FORMAT), **changes})

    def test_measured(self) -> None:
        values = images(50)
        measured = measured_format(values)
        assert measured.shape == FORMAT.shape
        np.testing.assert_allclose(measured.mean, (values / 255).mean(axis=(0, 1, 2)))
        np.testing.assert_allclose(measured.std, (values / 255).std(axis=(0, 1, 2)))

    def test_measured_of_one_colour(self) -> None:
        assert measured_format(np.full((2, 5, 4, 1), 51, dtype=np.uint8)).std == (1.0,)

    def test_other_images_are_refused(self) -> None:
        with pytest.raises(InputError, match=r"5 x 4 x 1 .*reads 5 x 4 x 3"):
            Pixels(images(2, (5, 4, 1)), FORMAT)
        with pytest.raises(ValueError, match="float64"):
            Pixels(images() / 255, FORMAT)


class TestBatches:
    @given(st.integers(0, 30), st.integers(1, 12), st.none() | st.integers(0, 5))
    def test_each_image_once(self, n_images, batch_size, seed) -> None:
        data = Pixels(images(n_images), FORMAT)
        rng = None if seed is None else np.random.default_rng(seed)
        batches = data.batches(batch_size, rng)
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert len(batches) in {-(-n_images // batch_size), n_images // batch_size}
        if seed is not None and min(n_images, batch_size) > 1:
            assert min(map(len, batches)) > 1  # one image has no statistics
        elif n_images:
            assert len(batches[-1]) <= batch_size
        order = np.concatenate([[], *batches])
        np.testing.assert_array_equal(order if seed is None else np.sort(order), range(n_images))

    def test_shuffled_by_the_generator(self) -> None:
        data = Pixels(images(20), FORMAT)
        first, again, other = (
            np.concatenate(data.batches(6, np.random.default_rng(seed))) for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()

    def test_taken_images(self) -> None:
        values = images()
        data = Pixels(values, FORMAT, Augmentation(padding=1, flip=True))
        taken = data.take(np.array([4, 1, 4]))
        assert len(taken) == 3
        np.testing.assert_array_equal(taken.values, values[[4, 1, 4]])
        assert taken.augmentation == data.augmentation

    def test_joined_images(self) -> None:
        values = images()
        first, second = (Pixels(values[rows], FORMAT) for rows in (slice(2), slice(2, None)))
        np.testing.assert_array_equal(first.joined(second).values, values)


class TestCollated:
    def test_a_batch_is_normalised_channel_by_channel(self) -> None:
        values = images()
        batch = Pixels(values, FORMAT).collate(np.array([3, 0]), CPU)["pixel_values"]
        assert batch.shape == (2, 3, 5, 4)
        assert batch.dtype == torch.float32
        assert batch.is_contiguous(memory_format=torch.channels_last)
        for position, row in enumerate([3, 0]):
            for channel in range(3):
                expected = (values[row, :, :, channel] / 255 - FORMAT.mean[channel]) / FORMAT.std[
                    channel
                ]
                np.testing.assert_allclose(batch[position, channel], expected, atol=1e-6)

    def test_grey_images(self) -> None:
        values = images(3, (5, 4, 1))
        batch = Pixels(values, plain_format(5, 4)).collate(np.arange(3), CPU)["pixel_values"]
        assert batch.is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_allclose(batch[:, 0], values[..., 0] / 255, atol=1e-6)

    def test_the_brightest_pixel_of_cifar(self) -> None:
        published = ImageFormat(1, 1, 3, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
        white = Pixels(np.full((1, 1, 1, 3), 255, dtype=np.uint8), published)
        assert collated(white, [0])[0, 0, 0, 1] == pytest.approx(2.1264887, abs=1e-6)

    def test_no_rows(self) -> None:
        data = Pixels(images(), FORMAT)
        for some in (data, data.augmented(Augmentation(padding=2, flip=True))):
            assert collated(some, np.arange(0)).shape == (0, 5, 4, 3)


class TestAugmentation:
    @pytest.mark.parametrize("padding", [4, 9])
    def test_the_margin_is_narrower_than_the_image(self, padding) -> None:
        data = Pixels(images(), FORMAT)
        with pytest.raises(InputError, match=rf"padding is {padding}, but .* 5 x 4 pixels; lower"):
            data.augmented(Augmentation(padding=padding, flip=False))

    def test_a_batch_is_of_crops_with_black_around_and_mirrored_ones(self) -> None:
        values = images(1, (5, 4, 1))
        margin = 2
        padded = np.pad(values[0, ..., 0], margin)
        crops = {}
        for top in range(2 * margin + 1):
            for left in range(2 * margin + 1):
                crop = padded[top : top + 5, left : left + 4]
                crops[crop.tobytes()] = (top, left, False)
                crops[crop[:, ::-1].tobytes()] = (top, left, True)
        data = Pixels(values, plain_format(5, 4)).augmented(Augmentation(padding=margin, flip=True))
        batch = collated(data, np.zeros(2000, dtype=int))
        seen = [crops[crop.tobytes()] for crop in (batch[..., 0] * 255).round().astype(np.uint8)]
        counts = {kind: seen.count(kind) for kind in crops.values()}
        assert len(counts) == 2 * 25
        assert min(counts.values()) > 15  # 40 on average, with a standard deviation of 6
        assert max(counts.values()) < 75

    def test_each_image_is_changed_by_itself(self) -> None:
        data = Pixels(
            images(50, (5, 4, 1)), plain_format(5, 4), Augmentation(padding=1, flip=False)
        )
        batch = (collated(data, np.arange(50))[..., 0] * 255).round().astype(np.uint8)
        for image, changed in zip(data.values[..., 0], batch, strict=True):
            padded = np.pad(image, 1)
            crops = [padded[t : t + 5, left : left + 4] for t in range(3) for left in range(3)]
            assert sum((crop == changed).all() for crop in crops) == 1

    def test_flips_alone(self) -> None:
        data = Pixels(images(), FORMAT)
        plain = collated(data, np.zeros(400, dtype=int))
        flipped = collated(
            data.augmented(Augmentation(padding=0, flip=True)), np.zeros(400, dtype=int)
        )
        same = (plain == flipped).all(axis=(1, 2, 3))
        mirrored = (plain[:, :, ::-1] == flipped).all(axis=(1, 2, 3))
        assert (same ^ mirrored).all()
        assert 150 < same.sum() < 250

    def test_nothing_asked_for_changes_nothing(self) -> None:
        data = Pixels(images(), FORMAT)
        nothing = data.augmented(Augmentation(padding=0, flip=False))
        np.testing.assert_array_equal(collated(nothing, np.arange(6)), collated(data, np.arange(6)))

    def test_it_depends_on_the_seed_alone(self) -> None:
        data = Pixels(images(30), FORMAT, Augmentation(padding=2, flip=True))
        first, again, other = (collated(data, np.arange(30), seed) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()

    def test_the_images_stay_as_they_are(self) -> None:
        values = images()
        data = Pixels(values.copy(), FORMAT)
        changed = data.augmented(Augmentation(padding=2, flip=True))
        assert data.augmentation is None
        collated(changed, np.arange(6))
        np.testing.assert_array_equal(changed.values, values)
        np.testing.assert_array_equal(
            collated(changed.plain(), np.arange(6)), collated(data, np.arange(6))
        )

    def test_the_generator_is_left_alone_without_it(self) -> None:
        before = torch.get_rng_state()
        Pixels(images(), FORMAT).collate(np.arange(6), CPU)
        assert torch.equal(torch.get_rng_state(), before)


def test_real_photographs() -> None:
    folder = Path(os.environ.get("BACKDOOR_DATA", "../shared/data")) / "images" / "cifar10"
    if not folder.is_dir():
        pytest.skip(f"no published images at {folder}: set BACKDOOR_DATA to the data's folder")
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(folder / "test.parquet")
    rows = next(file.iter_batches(1000, columns=["image"]))["image"].to_pylist()
    measured = measured_format(decode(rows, "test.parquet"))
    assert measured.shape == (32, 32, 3)
    np.testing.assert_allclose(measured.mean, (0.4914, 0.4822, 0.4465), atol=0.02)
    np.testing.assert_allclose(measured.std, (0.2470, 0.2435, 0.2616), atol=0.02)


def test_the_limit_of_pixels_is_below_that_of_pillow() -> None:
    assert pixels.MAX_PIXELS < Image.MAX_IMAGE_PIXELS
