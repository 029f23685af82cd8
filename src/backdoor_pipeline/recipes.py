"""The recipes: which detectors and which unlearner make a named defence.

A recipe flags what its detectors agree on. Each is a named pipeline: ``kedro run --pipelines btu``.
"""

from __future__ import annotations

from typing import NamedTuple


class Recipe(NamedTuple):
    """A defence of the text modality.

    Attributes:
        detectors: Names in ``pipelines.detect.nodes.DETECTORS``; with two, the second confirms.
        unlearner: A name in ``pipelines.unlearn.nodes.UNLEARNERS``.
    """

    detectors: tuple[str, ...]
    unlearner: str


DEFAULT = "btu_calibrated"
RECIPES = {
    "btu": Recipe(("token_drift",), "token_replacement"),
    "btu_calibrated": Recipe(("token_drift", "token_association"), "token_replacement"),
    "association": Recipe(("token_association",), "token_replacement"),
}
DETECTORS = sorted({detector for recipe in RECIPES.values() for detector in recipe.detectors})
