"""Progress of long loops: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 15.0

logger = logging.getLogger(__name__)


def track(items: Sequence[T], what: str) -> Iterator[T]:
    """The items one by one, while the share done and the time left are shown."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=what, leave=False)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - last > SECONDS_BETWEEN_LINES:
            left = (now - start) / done * (len(items) - done)
            logger.info("%s: %d of %d, about %.0f s left", what, done, len(items), left)
            last = now
        yield item
