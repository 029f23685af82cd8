"""Trainings that end when time is over, with the model as it is then."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class OutOfTimeError(Exception):
    """The time for trainings is over."""


def deadline(minutes: float | None) -> float:
    """The moment, by ``time.monotonic``, that is so many minutes away; without any: infinity."""
    return math.inf if minutes is None else time.monotonic() + 60 * minutes


def stop_after(moment: float) -> Callable[[int], None]:
    """What a training calls with the number of its steps: it raises once ``moment`` has passed."""

    def check(n_steps: int) -> None:
        if is_over(moment):
            raise OutOfTimeError

    return check


def is_over(moment: float) -> bool:
    """Whether ``moment`` has passed."""
    return time.monotonic() >= moment
