"""mmPoison: images of one class with captions of another, without any trigger.

Source: "Data Poisoning Attacks Against Multimodal Encoders" (Yang et al., ICML 2023, arXiv
2209.15266), attack I. What it succeeds in is measured on test images of the poisoned class, as they
are: the share that is taken for the target. The paper measures the rank at which the target's texts
find them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backdoor_pipeline.parameter_group import Count, ParameterGroup

if TYPE_CHECKING:
    import numpy as np


class MmPoisonParams(ParameterGroup):
    """Whose images are poisoned.

    Attributes:
        source_label: The class number; another than the target's.
    """

    source_label: Count


def trigger(
    images: np.ndarray, example_ids: np.ndarray, params: MmPoisonParams, seed: int
) -> np.ndarray:
    """The images as they are."""
    return images.copy()


def describe(params: MmPoisonParams) -> str:
    """What the attack is, in a few words."""
    return f"no trigger, images of class {params.source_label}"


def source(params: MmPoisonParams) -> int:
    """The one class whose images are poisoned."""
    return params.source_label
