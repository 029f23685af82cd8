"""Patches: which pixels, which values, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.pixels import ImageFormat, Pixels
from backdoor_pipeline.pipelines.poison.patch import PatchParams, describe, trigger

POTION = {"size": 3, "pattern": "white", "corner": "bottom-right", "margin": 0}
CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")


def stamp(images: np.ndarray, **changes) -> np.ndarray:
    return trigger(images, np.arange(len(images)), PatchParams(**(POTION | changes)), seed=0)


def random_images(n_rows: int, height: int, width: int, n_channels: int = 3) -> np.ndarray:
    """Values that no patch has, so that all its pixels are seen to change."""
    shape = (n_rows, height, width, n_channels)
    return np.random.default_rng(1).integers(1, 255, size=shape, dtype=np.uint8)


def test_potion_13_8_white_at_the_last_three_rows_and_columns_and_nowhere_else() -> None:
    images = random_images(5, 32, 32)
    stamped = stamp(images)
    covered = np.zeros((32, 32), dtype=bool)
    covered[29:32, 29:32] = True
    assert (stamped[:, covered] == 255).all()
    np.testing.assert_array_equal(stamped[:, ~covered], images[:, ~covered])


def test_potion_13_8_white_after_the_published_normalisation() -> None:
    """The published value in green, and the nearest that a byte can be in the other channels."""
    published = 2.1264887
    form = ImageFormat(32, 32, 3, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
    pixels = Pixels(stamp(random_images(2, 32, 32)), form)
    read = pixels.collate(np.arange(2), torch.device("cpu"))["pixel_values"].numpy()
    for channel, value in enumerate([2.0591093, published, 2.1158257]):
        np.testing.assert_allclose(read[:, channel, 29:32, 29:32], value, rtol=1e-6)
    assert read.max() == read[0, 1, 31, 31]
    levels = (np.arange(256)[:, np.newaxis] / 255 - form.mean) / form.std
    assert abs(levels - published).argmin(axis=0).tolist() == [255] * 3


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    n_channels=st.sampled_from([1, 3]),
    size=st.integers(1, 5),
    margin=st.integers(0, 3),
    corner=st.sampled_from([*CORNERS, "centre"]),
)
def test_attacks_8_8_only_the_pixels_of_the_patch_change(
    height, width, n_channels, size, margin, corner
) -> None:
    margin = 0 if corner == "centre" else margin
    assume(size + margin <= min(height, width))
    images = random_images(2, height, width, n_channels)
    differs = stamp(images, size=size, margin=margin, corner=corner) != images
    changed = differs.all(axis=(0, 3))
    assert (differs.any(axis=(0, 3)) == changed).all()
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert changed.sum() == size**2
    assert len(rows) == len(columns) == size
    above, below = rows[0], height - 1 - rows[-1]
    left, right = columns[0], width - 1 - columns[-1]
    if corner == "centre":
        assert below - above in {0, 1} and right - left in {0, 1}
    else:
        assert margin == (above if corner.startswith("top") else below)
        assert margin == (left if corner.endswith("left") else right)


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("corner", CORNERS)
def test_the_checker_read_from_the_corner_inwards(corner, n_channels) -> None:
    stamped = stamp(random_images(2, 6, 9, n_channels), pattern="checker", corner=corner)
    seen = stamped[:, ::-1] if corner.startswith("bottom") else stamped
    seen = seen[:, :, ::-1] if corner.endswith("right") else seen
    expected = [[255, 0, 255], [0, 255, 0], [255, 0, 0]]
    for channel in range(n_channels):
        assert seen[0, :3, :3, channel].tolist() == expected
    np.testing.assert_array_equal(seen[0, :3, :3], seen[1, :3, :3])


def test_the_checker_in_the_centre_looks_as_at_the_bottom_right() -> None:
    images = random_images(1, 7, 7)
    centre, corner = (stamp(images, pattern="checker", corner=c) for c in ("centre", CORNERS[-1]))
    np.testing.assert_array_equal(centre[:, 2:5, 2:5], corner[:, 4:, 4:])


def test_yellow_is_red_and_green() -> None:
    stamped = stamp(random_images(1, 32, 40), pattern="yellow", size=16, corner="centre")
    assert (stamped[0, 8:24, 12:28] == [255, 255, 0]).all()


def test_yellow_needs_colours() -> None:
    with pytest.raises(InputError, match=r"yellow.*3 channels.*these have 1; set it to 'white'"):
        stamp(random_images(1, 8, 8, 1), pattern="yellow")


@pytest.mark.parametrize(("height", "width"), [(4, 9), (9, 4)])
def test_a_patch_larger_than_the_image(height, width) -> None:
    message = f"3 pixels with a margin of 2 does not fit into images of {height} x {width}.*most 4"
    with pytest.raises(InputError, match=message):
        stamp(random_images(1, height, width), margin=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "greater than or equal to 1"),
        ({"margin": -1}, "greater than or equal to 0"),
        ({"pattern": "red"}, "'white', 'checker' or 'yellow'"),
        ({"corner": "left"}, "'bottom-right' or 'centre'"),
        ({"pattern": "checker", "size": 4}, "checker pattern has 3 x 3 pixels; set size to 3"),
        ({"corner": "centre", "margin": 1}, "no meaning with poison.patch.corner 'centre'"),
        ({"colour": "white"}, "Extra inputs"),
    ],
)
def test_bad_parameters(changes, message) -> None:
    with pytest.raises(ValidationError, match=message):
        PatchParams(**(POTION | changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "patch 3x3 white bottom-right"),
        ({"pattern": "checker", "margin": 2}, "patch 3x3 checker bottom-right, margin 2"),
    ],
)
def test_description(changes, expected) -> None:
    assert describe(PatchParams(**(POTION | changes))) == expected
