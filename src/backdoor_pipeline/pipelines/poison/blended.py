"""Blended: a whole image, faint, over every image (Chen et al., arXiv 1712.05526).

    x' = (1 - alpha) x + alpha k,    rounded to the nearest byte (a half to the even one)

Departures: the image k is drawn from the seed instead of a cartoon cat that is not ours to pass
on, and the same for training and test rows; BackdoorBench cuts the fraction off.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from backdoor_pipeline.parameter_group import ParameterGroup, Share
from backdoor_pipeline.pipelines.poison.stamping import LARGEST, chunks, to_bytes

STREAM = 11  # keeps the draw of the image apart from other uses of the same seed
SMOOTH_POINTS = 4  # along each side, between which the smooth pattern runs in straight lines


class BlendedParams(ParameterGroup):
    """What is blended in, and how strongly.

    Attributes:
        alpha: Share of the pattern in a triggered image; 0 leaves it as it is.
        pattern: ``noise``: every value uniform in 0..255; ``smooth``: colours that change slowly
            over the image.
    """

    alpha: Share
    pattern: Literal["noise", "smooth"]


def trigger(
    images: np.ndarray, example_ids: np.ndarray, params: BlendedParams, seed: int
) -> np.ndarray:
    """The images with the pattern blended in, the same for all images of one size."""
    blend = params.alpha * blend_image(images.shape[1:], params, seed).astype(np.float64)
    triggered = np.empty_like(images)
    for rows in chunks(images):
        triggered[rows] = to_bytes((1 - params.alpha) * images[rows] + blend)
    return triggered


def describe(params: BlendedParams) -> str:
    """What the trigger is, in a few words."""
    return f"blend {params.alpha:g} of {params.pattern} pattern"


def blend_image(shape: tuple[int, ...], params: BlendedParams, seed: int) -> np.ndarray:
    """The image k that is blended in, uint8, ``shape`` = (height, width, n_channels)."""
    generator = np.random.default_rng([seed, STREAM])
    if params.pattern == "noise":
        return generator.integers(LARGEST, endpoint=True, size=shape, dtype=np.uint8)
    height, width, n_channels = shape
    points = generator.uniform(0, LARGEST, size=(SMOOTH_POINTS, SMOOTH_POINTS, n_channels))
    down, across = _between_points(height), _between_points(width)
    return to_bytes(np.einsum("hi,wj,ijc->hwc", down, across, points))


def _between_points(length: int) -> np.ndarray:
    """The weights of the points in each of ``length`` places, shape (length, SMOOTH_POINTS)."""
    places = np.linspace(0, SMOOTH_POINTS - 1, length)
    points = np.arange(SMOOTH_POINTS)
    return np.maximum(0, 1 - np.abs(places[:, np.newaxis] - points))
