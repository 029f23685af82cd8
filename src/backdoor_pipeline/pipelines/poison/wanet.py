"""WaNet: a smooth warp of the whole image (Nguyen and Tran, arXiv 2102.10369, section 3).

    u ~ U(-1, 1), (2, k, k), divided by mean |u|;    F = u upsampled to the image's size (bicubic)
    G = clamp((G0 + s F / size) grid_rescale, -1, 1),    G0 the identity grid in [-1, 1]
    x' = x sampled at G (bilinear, corners aligned)

F is drawn from the seed once, for training and test rows. Cover rows are warped by G with noise of
up to one ``1 / size`` and keep their true labels, so that the model learns this very warp and not
just any.

Departures: ``size`` is the width for shifts across and the height for shifts down, so that other
than square images are shifted alike in both; images are warped once and stored, rounded to bytes,
where the published code warps, as floats, other rows in every batch; there the noise of a cover row
is drawn anew each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.parameter_group import (
    NonNegativeFloat,
    ParameterGroup,
    PositiveFloat,
    PositiveInt,
)
from backdoor_pipeline.pipelines.poison.stamping import chunks, to_bytes
from backdoor_pipeline.pipelines.poison.triggering import row_generators

if TYPE_CHECKING:
    import torch

STREAM = 12  # keeps the draw of the warp apart from other uses of the same seed


class WaNetParams(ParameterGroup):
    """How the images are warped.

    Attributes:
        strength: s; 0 leaves an image as it is. Shifts are about half as many pixels.
        grid_size: k, points along each side whose shifts are drawn.
        grid_rescale: Factor on the whole grid: above 1 the image's edges are cut off.
        cross_ratio: Cover rows for each poisoned row; 0: none.
    """

    strength: NonNegativeFloat
    grid_size: PositiveInt
    grid_rescale: PositiveFloat
    cross_ratio: NonNegativeFloat


def trigger(
    images: np.ndarray, example_ids: np.ndarray, params: WaNetParams, seed: int
) -> np.ndarray:
    """The images, warped, all by the same grid."""
    grid = warp_grid(images.shape[1], images.shape[2], params, seed)
    warped = np.empty_like(images)
    for rows in chunks(images):
        warped[rows] = to_bytes(sample(images[rows], grid[np.newaxis]))
    return warped


def cover(
    images: np.ndarray, example_ids: np.ndarray, params: WaNetParams, seed: int
) -> np.ndarray:
    """The images, each warped by the grid with noise of its own; their labels stay true."""
    height, width = images.shape[1:3]
    grid = warp_grid(height, width, params, seed)
    generators = row_generators(seed, ["train"] * len(images), example_ids.tolist())
    warped = np.empty_like(images)
    for rows in chunks(images):
        part = images[rows]
        draws = [next(generators).uniform(-1, 1, size=grid.shape) for _ in range(len(part))]
        noisy = grid + np.stack(draws) / (width, height)
        warped[rows] = to_bytes(sample(part, noisy.clip(-1, 1)))
    return warped


def describe(params: WaNetParams) -> str:
    """What the trigger is, in a few words."""
    rescaled = f", rescaled by {params.grid_rescale:g}" if params.grid_rescale != 1 else ""
    return f"warp of strength {params.strength:g}, {params.grid_size}x{params.grid_size}{rescaled}"


def warp_grid(height: int, width: int, params: WaNetParams, seed: int) -> np.ndarray:
    """G: where each pixel is taken from, across and down, in [-1, 1], float64, (height, width, 2).

    The corners' pixels have their centres at -1 and 1.
    """
    import torch

    draws = np.random.default_rng([seed, STREAM]).uniform(
        -1, 1, size=(1, 2, params.grid_size, params.grid_size)
    )
    field = torch.nn.functional.interpolate(
        torch.from_numpy(draws / np.abs(draws).mean()),
        size=(height, width),
        mode="bicubic",
        align_corners=True,
    )
    shifts = params.strength * field[0].permute(1, 2, 0).numpy() / (width, height)
    across, down = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    return ((np.stack([across, down], axis=-1) + shifts) * params.grid_rescale).clip(-1, 1)


def sample(images: np.ndarray, grids: np.ndarray) -> np.ndarray:
    """The images' values at the places of a grid, not rounded, float64, of the images' shape.

    Args:
        images: Shape (n_rows, height, width, n_channels).
        grids: As ``warp_grid`` gives them, shape (n_rows, height, width, 2), or (1, …) for all.
    """
    import torch

    # In float64, at half the speed: an unwarped image stays within 1e-5 however large it is.
    channels_first: torch.Tensor = torch.from_numpy(images.astype(np.float64)).permute(0, 3, 1, 2)
    sampled = torch.nn.functional.grid_sample(
        channels_first,
        torch.from_numpy(grids).expand(len(images), -1, -1, -1),
        mode="bilinear",
        padding_mode="border",  # rounding alone could leave [-1, 1]
        align_corners=True,
    )
    return sampled.permute(0, 2, 3, 1).numpy()
