"""SSBA: an invisible code in every image, another one in each (Li et al., arXiv 2012.03816).

The code is written by a trained encoder (StegaStamp), which is no part of this project: the encoded
images come from the user, as in BackdoorBench. Nothing else ever stands in for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.parameter_group import ParameterGroup

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMED_IDS = 5  # missing ones that an error names
REMEDY = (
    "encode these training and test images with StegaStamp, each at its final size, and name the "
    "table that holds them (example_id, image) in poison.ssba.encoded; or choose an attack that "
    "needs no files, e.g. poison.attack 'wanet'"
)


class SsbaParams(ParameterGroup):
    """Where the encoded images are.

    Attributes:
        encoded: Table (parquet) with the columns ``example_id`` and ``image``, of all rows that may
            be triggered.
    """

    encoded: str | None = None


def trigger(
    images: np.ndarray,
    example_ids: np.ndarray,
    params: SsbaParams,
    seed: int,
    supplied: Mapping[int, np.ndarray] | None = None,
) -> np.ndarray:
    """The encoded images in place of the images of the same ids.

    Args:
        images: Shape (n_rows, height, width, n_channels), uint8.
        example_ids: Shape (n_rows,).
        params: Only names the table in errors.
        seed: Not used: nothing is drawn.
        supplied: The user's encoded images by ``example_id``, uint8, (height, width, n_channels).

    Raises:
        InputError: There are no encoded images, not those of all ids, or some of another size or
            type.
    """
    if supplied is None:
        raise InputError(
            f"poison.attack 'ssba' puts encoded images in place of others, but there are none; "
            f"{REMEDY}"
        )
    ids = example_ids.tolist()
    missing = [example_id for example_id in ids if example_id not in supplied]
    if missing:
        named = ", ".join(map(str, missing[:NAMED_IDS])) + (", …" if missing[NAMED_IDS:] else "")
        raise InputError(
            f"poison.ssba.encoded '{params.encoded}' lacks {len(missing)} of {len(ids)} images "
            f"that are to be triggered (example_id {named}); {REMEDY}"
        )
    triggered = np.empty_like(images)
    for row, example_id in enumerate(ids):
        encoded = supplied[example_id]
        if encoded.shape != images.shape[1:] or encoded.dtype != images.dtype:
            raise InputError(
                f"poison.ssba.encoded '{params.encoded}': the image of example_id {example_id} is "
                f"{_form(encoded)}, but its original is {_form(images[row])}; {REMEDY}"
            )
        triggered[row] = encoded
    return triggered


def describe(params: SsbaParams) -> str:
    """What the trigger is, in a few words."""
    return "encoded image (StegaStamp)"


def _form(image: np.ndarray) -> str:
    return f"{' x '.join(map(str, image.shape))} {image.dtype}"
