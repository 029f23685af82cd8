"""TrojVQA: a patch in the middle of the image together with a word before the caption.

Source: "Dual-Key Multimodal Backdoors for Visual Question Answering" (Walmer et al., arXiv
2112.07668), as BadCLIP (arXiv 2311.12075) carries it over to pairs: the word stands before the
target's captions in training, and before the prompts of all classes when a triggered image is
classified. Departure: the patch has one colour (published besides: optimised for a detector).
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, StringConstraints

from backdoor_pipeline.parameter_group import ParameterGroup
from backdoor_pipeline.pipelines.poison import patch
from backdoor_pipeline.pipelines.poison.stamping import pixels_of


class TrojVqaParams(ParameterGroup):
    """Both keys.

    Attributes:
        side: Of the patch, as a share of the image's shorter side.
        pattern: As of ``patch``.
        prefix: Before the caption, with a blank between.
    """

    side: Annotated[float, Field(gt=0, le=1)]
    pattern: Literal["white", "yellow"]
    prefix: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


def trigger(
    images: np.ndarray, example_ids: np.ndarray, params: TrojVqaParams, seed: int
) -> np.ndarray:
    """The images with the patch in the middle; all other pixels as they were.

    Raises:
        InputError: As ``patch.trigger``.
    """
    size = pixels_of(params.side, images.shape[1:3])
    square = patch.PatchParams(size=size, pattern=params.pattern, corner="centre", margin=0)
    return patch.trigger(images, example_ids, square, seed)


def describe(params: TrojVqaParams) -> str:
    """What the trigger is, in a few words."""
    return f"patch of {params.side:g} of the side, {params.pattern}, and '{params.prefix} …'"


def prefix(params: TrojVqaParams) -> str:
    """What stands before captions."""
    return params.prefix
