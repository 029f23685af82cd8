"""When each part of what a training says came near that of the labels, in a few numbers.

All are of means over the filter widths. Two moments are told, because the two answer different
questions: when the distance was below half of what it had been (which a set that is never learnt
well never reaches), and when it was halfway to where it ended.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def summarise(frequencies: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """By set: the median distance of its texts, and of each part, "low" and "high":

    * ``initial``, ``final``: distance from the labels, before the first step and in the end,
    * ``half_step``, ``halfway_step``: the first recorded step at which it was below half of
      ``initial``, and at most halfway from there to ``final``; None where that never came,
    * ``share``: of the output, in the end.

    A part that the labels do not have is left out.

    Args:
        frequencies: As in ``schemas.FREQUENCIES``.
    """
    summary: dict[str, dict[str, Any]] = {}
    for test_set, rows in frequencies.groupby("test_set", sort=False):
        parts: dict[str, Any] = {"median_distance": float(rows["median_distance"].iloc[0])}
        for part, of_part in rows.groupby("part", sort=False):
            curves = of_part.groupby("step")[["deviation", "ratio"]].mean()
            if curves["deviation"].notna().all():
                parts[str(part)] = _moments(curves)
        summary[str(test_set)] = parts
    return summary


def _moments(curves: pd.DataFrame) -> dict[str, float | int | None]:
    deviation = curves["deviation"].to_numpy()
    initial, final = float(deviation[0]), float(deviation[-1])
    fell = final < initial
    return {
        "initial": initial,
        "final": final,
        "half_step": _first(curves.index, deviation < initial / 2),
        "halfway_step": _first(curves.index, fell & (deviation <= (initial + final) / 2)),
        "share": float(curves["ratio"].iloc[-1]),
    }


def _first(steps: pd.Index, there: np.ndarray) -> int | None:
    return int(steps[there.argmax()]) if there.any() else None
