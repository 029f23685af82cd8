"""The recipes: which detector and which unlearners make a named defence.

Each is a named pipeline: ``kedro run --pipelines btu``.
"""

from __future__ import annotations

from typing import NamedTuple

DETECTORS = {
    "token_drift": ("poison",),
    "token_association": ("poison",),
    "confirmation": ("token_drift", "token_association"),
}
"""Detector -> the stages and the other detectors whose outputs it reads."""


class Recipe(NamedTuple):
    """A defence of the text modality.

    Attributes:
        detector: Whose suspects are unlearnt; a name in ``DETECTORS``.
        unlearners: Names in ``pipelines.unlearn.nodes.UNLEARNERS``, one after the other.
    """

    detector: str
    unlearners: tuple[str, ...]

    @property
    def detectors(self) -> tuple[str, ...]:
        """All that take part in the detection, each after those whose suspects it reads."""
        needed = {self.detector, *DETECTORS[self.detector]}
        return tuple(name for name in DETECTORS if name in needed)

    @property
    def figures(self) -> tuple[str, ...]:
        """What its report draws."""
        return ("before_after", "drift", "association", "training")

    @property
    def methods(self) -> tuple[str, ...]:
        """Its detectors and unlearners; each has a parameter group of that name."""
        return (*self.detectors, *self.unlearners)


DEFAULT = "btu_calibrated"
PUBLISHED = ("token_replacement", "fine_tune")
CALIBRATED = ("token_replacement", "neutralisation", "recalibration", "fine_tune")
RECIPES = {
    "btu": Recipe("token_drift", PUBLISHED),
    "btu_calibrated": Recipe("confirmation", CALIBRATED),
    "association": Recipe("token_association", CALIBRATED),
}
