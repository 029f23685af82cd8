"""The warp: against the formula worked out step by step, at its ends, and with noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backdoor_pipeline.pipelines.poison.wanet import (
    STREAM,
    WaNetParams,
    cover,
    describe,
    sample,
    trigger,
    warp_grid,
)

PUBLISHED = {"strength": 0.5, "grid_size": 4, "grid_rescale": 1, "cross_ratio": 2}
SIZES = [(32, 32), (7, 12), (13, 5)]


def with_params(**changes) -> WaNetParams:
    return WaNetParams(**(PUBLISHED | changes))


def random_images(height: int, width: int, n_channels: int = 3, n_rows: int = 3) -> np.ndarray:
    shape = (n_rows, height, width, n_channels)
    return np.random.default_rng(1).integers(256, size=shape, dtype=np.uint8)


def smooth_images(height: int, width: int) -> np.ndarray:
    """Images that differ little from pixel to pixel, as photographs do."""
    down, across = np.mgrid[:height, :width] / 8
    waves = [np.sin(down + phase) + np.cos(1.3 * across - phase) for phase in range(9)]
    return (
        (127 + 60 * np.reshape(waves, (3, 3, height, width))).astype(np.uint8).transpose(0, 2, 3, 1)
    )


def cubic(distance: float) -> float:
    """Keys' cubic kernel with a = -0.75, as torch has it."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def upsampled(points: np.ndarray, length: int) -> np.ndarray:
    """(k, m) -> (length, m): cubic between the points, first and last points repeated outside."""
    last = len(points) - 1
    rows = []
    for place in np.linspace(0, last, length):
        whole = math.floor(place)
        near = range(whole - 1, whole + 3)
        rows.append(sum(cubic(place - i) * points[min(max(i, 0), last)] for i in near))
    return np.stack(rows)


def warped_by_hand(image: np.ndarray, params: WaNetParams, seed: int) -> np.ndarray:
    """The formula of the module's docstring, pixel by pixel, not rounded."""
    height, width = image.shape[:2]
    k = params.grid_size
    u = np.random.default_rng([seed, STREAM]).uniform(-1, 1, size=(1, 2, k, k))[0]
    across, down = (
        upsampled(upsampled(field, height).T, width).T for field in u / np.abs(u).mean()
    )
    result = np.empty(image.shape)
    for i, j in np.ndindex(height, width):
        x = -1 + 2 * j / (width - 1) + params.strength * across[i, j] / width
        y = -1 + 2 * i / (height - 1) + params.strength * down[i, j] / height
        x, y = (min(max(v * params.grid_rescale, -1), 1) for v in (x, y))
        column, row = (x + 1) / 2 * (width - 1), (y + 1) / 2 * (height - 1)
        left, above = min(int(column), width - 2), min(int(row), height - 2)
        a, b = column - left, row - above
        square = image[above : above + 2, left : left + 2].astype(float)
        top = (1 - a) * square[0, 0] + a * square[0, 1]
        bottom = (1 - a) * square[1, 0] + a * square[1, 1]
        result[i, j] = (1 - b) * top + b * bottom
    return result


@pytest.mark.parametrize("changes", [{}, {"strength": 3, "grid_size": 3, "grid_rescale": 1.1}])
@pytest.mark.parametrize(("height", "width"), [(7, 12), (13, 5)])
def test_the_warp_is_the_formula(height, width, changes) -> None:
    images, params = random_images(height, width), with_params(**changes)
    warped = trigger(images, np.arange(3), params, seed=6)
    by_hand = np.stack([warped_by_hand(image, params, seed=6) for image in images])
    assert abs(warped - by_hand).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [*SIZES, (224, 100)])
def test_attacks_8_8_strength_0_is_the_identity(height, width, n_channels) -> None:
    images, params = random_images(height, width, n_channels), with_params(strength=0)
    grid = warp_grid(height, width, params, seed=0)
    np.testing.assert_allclose(sample(images, grid[np.newaxis]), images, atol=1e-5)
    np.testing.assert_array_equal(trigger(images, np.arange(3), params, seed=0), images)


@given(
    strength=st.floats(0, 5),
    grid_size=st.integers(1, 6),
    grid_rescale=st.floats(0.5, 1.5),
    seed=st.integers(0, 2**32),
)
def test_the_grid_stays_within_the_image(strength, grid_size, grid_rescale, seed) -> None:
    params = with_params(strength=strength, grid_size=grid_size, grid_rescale=grid_rescale)
    grid = warp_grid(5, 8, params, seed)
    assert grid.shape == (5, 8, 2)
    assert abs(grid).max() <= 1


def test_shifts_are_alike_in_both_directions_and_grow_with_the_strength() -> None:
    def shifts(strength: float) -> np.ndarray:
        """Mean shift inside the image, in pixels, across and down."""
        grids = [warp_grid(20, 60, with_params(strength=s), seed=3) for s in (strength, 0)]
        return abs((grids[0] - grids[1])[2:-2, 2:-2]).mean(axis=(0, 1)) * [59 / 2, 19 / 2]

    np.testing.assert_allclose(shifts(1), 2 * shifts(0.5))
    assert (shifts(0.5) > 0.1).all() and (shifts(0.5) < 0.5).all()


def test_a_published_warp_is_hardly_seen() -> None:
    images = smooth_images(32, 32)
    change = abs(trigger(images, np.arange(3), with_params(), seed=0).astype(int) - images)
    assert 0 < change.mean() < 4


def test_no_randomness_of_torch_is_used() -> None:
    before = torch.get_rng_state()
    images = random_images(7, 12)
    trigger(images, np.arange(3), with_params(), seed=0)
    cover(images, np.arange(3), with_params(), seed=0)
    assert torch.equal(torch.get_rng_state(), before)


class TestCover:
    def test_every_image_has_noise_of_its_own(self) -> None:
        image = random_images(9, 9, n_rows=1)
        covers = cover(np.repeat(image, 20, axis=0), np.arange(20), with_params(), seed=0)
        assert len({one.tobytes() for one in covers}) == 20
        assert not (covers == trigger(image, np.arange(1), with_params(), 0)).all((1, 2, 3)).any()

    @pytest.mark.parametrize("strength", [0, 0.5])
    def test_the_noise_is_uniform_around_the_warp_up_to_half_a_pixel(self, strength) -> None:
        # On ramps, a pixel's value tells where it was taken from.
        height, width = 21, 31
        down, across = np.mgrid[:height, :width]
        ramps = np.stack([8 * across, 8 * down], axis=-1).astype(np.uint8)[np.newaxis]
        params = with_params(strength=strength)
        mean = trigger(ramps, np.arange(1), params, seed=0)[0].astype(float) / 8
        covers = cover(np.repeat(ramps, 200, axis=0), np.arange(200), params, seed=0) / 8
        inside = (covers - mean)[:, 2:-2, 2:-2]
        largest = np.array([(width - 1) / 2 / width, (height - 1) / 2 / height])  # of 1 / size
        assert (abs(inside).max(axis=(0, 1, 2)) <= largest + 2 / 16).all()
        np.testing.assert_allclose(inside.mean(axis=(0, 1, 2)), 0, atol=0.02)
        np.testing.assert_allclose(inside.std(axis=(0, 1, 2)), largest / 3**0.5, rtol=0.06)

    def test_the_share_of_cover_rows_does_not_change_the_images(self) -> None:
        images = random_images(7, 12)
        for function in (trigger, cover):
            one, other = (
                function(images, np.arange(3), with_params(cross_ratio=c), seed=0) for c in (0, 2)
            )
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": -0.1}, "greater than or equal to 0"),
        ({"grid_size": 0}, "greater than or equal to 1"),
        ({"grid_rescale": 0}, "greater than 0"),
        ({"cross_ratio": -1}, "greater than or equal to 0"),
    ],
)
def test_bad_parameters(changes, message) -> None:
    with pytest.raises(ValidationError, match=message):
        with_params(**changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "warp of strength 0.5, 4x4"),
        ({"grid_rescale": 0.98}, "warp of strength 0.5, 4x4, rescaled by 0.98"),
    ],
)
def test_description(changes, expected) -> None:
    assert describe(with_params(**changes)) == expected
