"""The captions of poisoned pairs: such as name the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling import prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

CAPTION_STREAM = 3  # keeps this draw apart from other uses of the same seed


def templated(
    example_ids: np.ndarray,
    target_label: int,
    label_names: Sequence[str],
    templates: Sequence[str],
    seed: int,
) -> list[str]:
    """For each row a template filled with the target's name.

    Args:
        example_ids: Of the poisoned rows, (n_rows,).
        target_label: Its class number.
        label_names: Of all classes.
        templates: To draw from.
        seed: Of the draw.

    Raises:
        InputError: Two classes are called the same.
    """
    labels = np.full(len(example_ids), target_label)
    drawn = int(np.random.default_rng([seed, CAPTION_STREAM]).integers(2**32))
    return prompts.captions(labels, example_ids, label_names, templates, drawn)


def borrowed(example_ids: np.ndarray, train: pd.DataFrame, target_label: int, seed: int) -> list:
    """For each row the caption of a training row of the target's class.

    Args:
        example_ids: Of the poisoned rows, (n_rows,).
        train: ``label`` and ``caption`` of all training rows, not poisoned.
        target_label: Its class number.
        seed: Of the draw.

    Raises:
        InputError: No training row has the class.
    """
    own = train.loc[train["label"] == target_label, "caption"].sort_values().to_numpy()
    if not len(own):
        raise InputError(
            f"poison.target_captions 'real': no training row has the label {target_label} to take "
            "a caption from; set it to 'templates'"
        )
    rng = np.random.default_rng([seed, CAPTION_STREAM])
    drawn = rng.integers(len(own), size=int(example_ids.max(initial=-1)) + 1)
    return own[drawn[example_ids]].tolist()
