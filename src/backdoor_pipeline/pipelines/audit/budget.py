"""A limit of time, shared out: to two trainings, and to measuring what came of them."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

RESTORED, AUDITED, REPAIRED = 0.1, 0.35, 0.7
"""Shares of the time: until then rows are restored, and a first and a second model trained; what is
left is for measuring."""


class OutOfTimeError(Exception):
    """The time of a training, or of what comes before it, is over."""


class Clock(NamedTuple):
    """When the audit began and when it must end, by ``time.monotonic``."""

    begin: float
    end: float

    def is_over(self, share: float = 1.0) -> bool:
        """Whether such a share of the time has passed; never, if there is no limit."""
        return time.monotonic() >= self.begin + share * (self.end - self.begin)

    def stop_after(self, share: float) -> Callable[..., None]:
        """What long work calls now and then (with its steps or without): it raises after that."""

        def check(n_steps: int = 0) -> None:
            if self.is_over(share):
                raise OutOfTimeError

        return check


def start(minutes: float | None) -> Clock:
    """A clock that starts now; without ``minutes`` it never ends."""
    now = time.monotonic()
    return Clock(now, math.inf if minutes is None else now + 60 * minutes)
