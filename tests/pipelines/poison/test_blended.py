"""Blending: the formula, its ends, and the images that are blended in."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backdoor_pipeline.pipelines.poison.blended import (
    BlendedParams,
    blend_image,
    describe,
    trigger,
)

PATTERNS = ("noise", "smooth")
SHAPES = [(6, 9, 3), (9, 6, 1), (1, 5, 3), (2, 1, 1)]


def blend(images: np.ndarray, seed: int = 0, **settings) -> np.ndarray:
    return trigger(images, np.arange(len(images)), BlendedParams(**settings), seed)


def random_images(shape: tuple[int, ...], n_rows: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(256, size=(n_rows, *shape), dtype=np.uint8)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", SHAPES)
class TestEnds:
    def test_attacks_8_8_alpha_0_is_the_identity(self, shape, pattern) -> None:
        every_value = np.arange(256, dtype=np.uint8)
        images = np.broadcast_to(every_value[:, None, None, None], (256, *shape))
        np.testing.assert_array_equal(blend(images, alpha=0, pattern=pattern), images)

    def test_alpha_1_is_the_pattern_itself(self, shape, pattern) -> None:
        params = BlendedParams(alpha=1, pattern=pattern)
        blended = blend(random_images(shape), seed=4, alpha=1, pattern=pattern)
        expected = blend_image(shape, params, seed=4)
        np.testing.assert_array_equal(blended, np.broadcast_to(expected, blended.shape))


@given(alpha=st.floats(0, 1), seed=st.integers(0, 100), pattern=st.sampled_from(PATTERNS))
def test_every_value_is_the_nearest_byte_to_the_formula(alpha, seed, pattern) -> None:
    images = random_images((3, 4, 3), n_rows=2)
    params = BlendedParams(alpha=alpha, pattern=pattern)
    k = blend_image((3, 4, 3), params, seed)
    blended = trigger(images, np.arange(2), params, seed)
    share = Fraction(alpha)
    for place in np.ndindex(images.shape):
        exact = (1 - share) * int(images[place]) + share * int(k[place[1:]])
        assert abs(exact - int(blended[place])) <= Fraction(1, 2) + Fraction(1, 10**9)


def test_halves_go_to_the_even_byte() -> None:
    params = BlendedParams(alpha=0.5, pattern="noise")
    k = blend_image((8, 8, 1), params, seed=0).astype(int)
    images = np.stack([np.zeros((8, 8, 1)), np.full((8, 8, 1), 255)]).astype(np.uint8)
    blended = trigger(images, np.arange(2), params, seed=0)
    for image, result in zip(images.astype(int), blended, strict=True):
        half = (image + k) % 2 == 1
        assert half.any()
        assert (result[half] % 2 == 0).all()


def test_noise_is_uniform_over_all_bytes_and_channels_differ() -> None:
    k = blend_image((64, 80, 3), BlendedParams(alpha=0.2, pattern="noise"), seed=2)
    counts = np.bincount(k.ravel(), minlength=256)
    assert counts.min() > 0.4 * k.size / 256
    assert counts.max() < 1.8 * k.size / 256
    assert abs(np.corrcoef(k.reshape(-1, 3).T)[np.triu_indices(3, 1)]).max() < 0.1


@pytest.mark.parametrize("seed", range(5))
def test_the_smooth_pattern_changes_slowly_and_yet_much(seed) -> None:
    k = blend_image((32, 48, 3), BlendedParams(alpha=0.2, pattern="smooth"), seed).astype(int)
    steps = max(abs(np.diff(k, axis=axis)).max() for axis in (0, 1))
    assert steps <= 255 * 3 / 31 + 1
    assert (np.ptp(k, axis=(0, 1)) > 80).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_seeds_have_patterns_of_their_own(pattern) -> None:
    params = BlendedParams(alpha=0.2, pattern=pattern)
    seen = {blend_image((8, 9, 3), params, seed).tobytes() for seed in range(20)}
    assert len(seen) == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": -0.1}, "greater than or equal to 0"),
        ({"alpha": 1.1}, "less than or equal to 1"),
        ({"pattern": "cat"}, "'noise' or 'smooth'"),
    ],
)
def test_bad_parameters(changes, message) -> None:
    with pytest.raises(ValidationError, match=message):
        BlendedParams(**({"alpha": 0.2, "pattern": "noise"} | changes))


def test_description() -> None:
    params = BlendedParams(alpha=0.2, pattern="noise")
    assert describe(params) == "blend 0.2 of noise pattern"
