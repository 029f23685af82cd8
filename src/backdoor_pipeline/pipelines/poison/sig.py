"""SIG: a faint wave across every image (Barni, Kallas and Tondi, arXiv 1902.11237).

    x' = clip(x + delta sin(2 pi j f / W)),    j the column, W the width

the same in all rows, channels and images. The paper keeps the labels (``poison.label_mode``
``clean``); common benchmarks change them (``dirty``).

Departures: the wave is rounded to whole steps of 255 once, before it is added, so that every image
gets the same one. (The code of Anti-Backdoor Learning mixes image and wave instead of adding.)
"""

from __future__ import annotations

import numpy as np

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.parameter_group import NonNegativeFloat, ParameterGroup, PositiveInt
from backdoor_pipeline.pipelines.poison.stamping import chunks, to_bytes


class SigParams(ParameterGroup):
    """How strong the wave is, and how fine.

    Attributes:
        delta: Height of the wave, in steps of 255; 0 leaves the image as it is.
        frequency: Full periods across the width.
    """

    delta: NonNegativeFloat
    frequency: PositiveInt


def trigger(
    images: np.ndarray, example_ids: np.ndarray, params: SigParams, seed: int
) -> np.ndarray:
    """The images with the wave added, values outside 0..255 cut off.

    Raises:
        InputError: The images are too narrow to show so many periods.
    """
    offset = wave(images.shape[2], params)[:, np.newaxis]
    triggered = np.empty_like(images)
    for rows in chunks(images):
        triggered[rows] = to_bytes(images[rows] + offset)
    return triggered


def describe(params: SigParams) -> str:
    """What the trigger is, in a few words."""
    return f"wave of height {params.delta:g}, {params.frequency} periods"


def wave(width: int, params: SigParams) -> np.ndarray:
    """What is added to each column, whole numbers as float64, shape (width,).

    Raises:
        InputError: A period has two columns or fewer: the wave would show another frequency, or
            nothing at all.
    """
    finest = (width - 1) // 2
    if params.frequency > finest:
        allowed = f"give at most {finest}" if finest else "use wider images"
        raise InputError(
            f"poison.sig.frequency {params.frequency}: images of {width} columns cannot show so "
            f"many periods; {allowed}"
        )
    columns = np.arange(width)
    return np.rint(params.delta * np.sin(2 * np.pi * columns * params.frequency / width))
