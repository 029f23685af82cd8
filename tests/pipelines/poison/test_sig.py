"""The wave: its shape, its height, and images that are too narrow for it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.pipelines.poison.sig import SigParams, describe, trigger, wave


def add(images: np.ndarray, **changes) -> np.ndarray:
    params = SigParams(**({"delta": 40, "frequency": 6} | changes))
    return trigger(images, np.arange(len(images)), params, seed=0)


def random_images(height: int, width: int, n_channels: int = 3) -> np.ndarray:
    shape = (4, height, width, n_channels)
    return np.random.default_rng(1).integers(256, size=shape, dtype=np.uint8)


@pytest.mark.parametrize("n_channels", [1, 3])
def test_attacks_8_8_delta_0_is_the_identity(n_channels) -> None:
    images = random_images(8, 20, n_channels)
    np.testing.assert_array_equal(add(images, delta=0), images)


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("delta", [1, 40])  # 1: the sine of 30 degrees is halfway to the next byte
def test_attacks_8_8_the_same_offset_in_every_row_channel_and_image(n_channels, delta) -> None:
    images = np.random.default_rng(1).integers(50, 200, (4, 8, 36, n_channels), dtype=np.uint8)
    added = add(images, delta=delta, frequency=3).astype(int) - images
    assert added.any()
    np.testing.assert_array_equal(added, np.broadcast_to(added[:1, :1, :, :1], added.shape))


def test_attacks_8_8_six_full_periods_across_the_width() -> None:
    images = np.full((1, 2, 36, 3), 128, dtype=np.uint8)
    added = add(images)[0, 0, :, 0].astype(int) - 128
    np.testing.assert_array_equal(added, np.roll(added, 36 // 6))
    assert len(set(added[:6].tolist())) > 2
    assert ((added[:-1] <= 0) & (added[1:] > 0)).sum() == 6
    for width in (32, 33, 224):
        spectrum = abs(np.fft.rfft(wave(width, SigParams(delta=40, frequency=6))))
        assert spectrum.argmax() == 6


@given(delta=st.floats(0, 300), frequency=st.integers(1, 9), width=st.integers(3, 40))
def test_the_wave_is_cut_off_at_the_ends_and_never_wraps(delta, frequency, width) -> None:
    assume(2 * frequency < width)
    images = random_images(2, width)
    added = add(images, delta=delta, frequency=frequency)
    for column in range(width):
        offset = round(delta * math.sin(2 * math.pi * column * frequency / width), 9)
        ideal = np.clip(images[:, :, column].astype(float) + offset, 0, 255)
        assert abs(added[:, :, column] - ideal).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("width", "frequency", "allowed"), [(12, 6, 5), (11, 6, 5), (8, 6, 3), (6, 6, 2), (4, 2, 1)]
)
def test_images_too_narrow_for_the_wave(width, frequency, allowed) -> None:
    images = random_images(8, width)
    with pytest.raises(InputError, match=rf"{frequency}: images of {width} .*at most {allowed}"):
        add(images, frequency=frequency)
    assert (add(images, frequency=allowed) != images).any()


def test_images_too_narrow_for_any_wave() -> None:
    with pytest.raises(InputError, match="use wider images"):
        add(random_images(8, 2), frequency=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delta": -1}, "greater than or equal to 0"),
        ({"delta": float("nan")}, "finite"),
        ({"frequency": 0}, "greater than or equal to 1"),
        ({"frequency": 2.5}, "valid integer"),
    ],
)
def test_bad_parameters(changes, message) -> None:
    with pytest.raises(ValidationError, match=message):
        SigParams(**({"delta": 40, "frequency": 6} | changes))


def test_description() -> None:
    assert describe(SigParams(delta=40, frequency=6)) == "wave of height 40, 6 periods"
