"""BadNets for images: a small patch at a fixed place (Gu et al., arXiv 1708.06733).

``checker`` is the grid of Anti-Backdoor Learning (Li et al., arXiv 2110.11571).

Potion (Schoepf, Foster and Brintrup, arXiv 2406.09173) has a white patch of 3 x 3 pixels at the
bottom right. Two departures from its published code: white is 255 in every channel here, which is
2.059, 2.126 and 2.116 after its normalisation, where the code writes 2.1264887 into all three; and
the patch is part of the stored image, so augmentation moves it as in BackdoorBench, where the code
writes it after augmentation, always at the same place.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import model_validator

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.parameter_group import Count, ParameterGroup, PositiveInt
from backdoor_pipeline.pipelines.poison.stamping import LARGEST, middle

CHECKER = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 1]], dtype=np.uint8) * LARGEST
"""As it looks at the bottom right and in the centre; at the other corners mirrored, so that it is
the same seen from the corner."""
YELLOW = np.array([1, 1, 0], dtype=np.uint8) * LARGEST


class PatchParams(ParameterGroup):
    """What the patch looks like and where it lies.

    Attributes:
        size: Side of the square, in pixels.
        pattern: ``white``; ``yellow``, of colour images alone; ``checker``, 3 x 3 black and white.
        corner: Where the patch lies; ``centre`` is up and left of it where it is between pixels.
        margin: Pixels between the patch and the two edges of its corner.
    """

    size: PositiveInt
    pattern: Literal["white", "checker", "yellow"]
    corner: Literal["top-left", "top-right", "bottom-left", "bottom-right", "centre"]
    margin: Count

    @model_validator(mode="after")
    def _fits_together(self) -> PatchParams:
        if self.pattern == "checker" and self.size != len(CHECKER):
            raise InputError(
                f"poison.patch.size {self.size}: the checker pattern has {len(CHECKER)} x "
                f"{len(CHECKER)} pixels; set size to {len(CHECKER)}, or pattern to 'white'"
            )
        if self.corner == "centre" and self.margin:
            raise InputError(
                f"poison.patch.margin {self.margin} has no meaning with poison.patch.corner "
                "'centre'; leave it at 0, or choose a corner, e.g. 'bottom-right'"
            )
        return self


def trigger(
    images: np.ndarray, example_ids: np.ndarray, params: PatchParams, seed: int
) -> np.ndarray:
    """The images with the patch on them; all other pixels as they were.

    Raises:
        InputError: The images are smaller than the patch and its margin, or yellow is asked of
            images without colours.
    """
    height, width, n_channels = images.shape[1:]
    if params.size + params.margin > min(height, width):
        raise InputError(
            f"poison.patch: a patch of {params.size} pixels with a margin of {params.margin} does "
            f"not fit into images of {height} x {width}; lower poison.patch.size or margin, "
            f"together at most {min(height, width)}"
        )
    vertical, _, horizontal = params.corner.partition("-")
    rows = _place(vertical == "top", params, height)
    columns = _place(horizontal == "left", params, width)
    stamped = images.copy()
    stamped[:, rows, columns] = _pattern(params, n_channels)
    return stamped


def describe(params: PatchParams) -> str:
    """What the trigger is, in a few words."""
    margin = f", margin {params.margin}" if params.margin else ""
    return f"patch {params.size}x{params.size} {params.pattern} {params.corner}{margin}"


def _place(first: bool, params: PatchParams, length: int) -> slice:
    """Which rows or columns of ``length`` the patch covers; ``first``: the top or the left ones."""
    if params.corner == "centre":
        return middle(length, params.size)
    start = params.margin if first else length - params.margin - params.size
    return slice(start, start + params.size)


def _pattern(params: PatchParams, n_channels: int) -> np.ndarray:
    """The patch, or what repeats over it, of a shape that goes into (size, size, n_channels)."""
    if params.pattern == "white":
        return np.array(LARGEST, dtype=np.uint8)
    if params.pattern == "yellow":
        if n_channels != len(YELLOW):
            raise InputError(
                "poison.patch.pattern 'yellow' needs images of 3 channels (red, green, blue), but "
                f"these have {n_channels}; set it to 'white' or 'checker'"
            )
        return YELLOW
    checker = CHECKER[::-1] if params.corner.startswith("top") else CHECKER
    checker = checker[:, ::-1] if params.corner.endswith("left") else checker
    return checker[:, :, np.newaxis]
