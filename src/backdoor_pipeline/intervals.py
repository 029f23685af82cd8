"""A share of examples and its uncertainty: the one place that it is defined."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


class Rate(NamedTuple):
    """A share of examples with its Wilson interval."""

    value: float
    low: float
    high: float
    n: int

    def named(self, name: str) -> dict[str, float]:
        """As ``{name, name_low, name_high, name_n}``, the form it has in ``metrics``."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high,
                f"{name}_n": self.n}  # fmt: skip


def rate(hits: np.ndarray) -> Rate:
    """The share of true values in ``hits`` (bool, shape (n,)) with its interval.

    Raises:
        ValueError: ``hits`` is empty; no share can be formed.
    """
    from statsmodels.stats.proportion import proportion_confint

    hits = np.asarray(hits, dtype=bool)
    if not len(hits):
        raise ValueError("no eligible examples: a rate of nothing is undefined")
    low, high = proportion_confint(int(hits.sum()), len(hits), 1 - CONFIDENCE, method="wilson")
    value = float(hits.mean())  # which rounding must not put outside of its interval
    return Rate(value, min(float(low), value), max(float(high), value), len(hits))
