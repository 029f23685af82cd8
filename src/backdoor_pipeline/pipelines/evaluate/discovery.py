"""The discovery curve: how far a victim heals by the share of its poison that the defender knows.

With V the victim, M what heals of it, CA and RA clean and robust accuracy (see ``rates``):

    clean accuracy drop = CA(V) - CA(M)
    healed              = (RA(M) - RA(V)) / (CA(V) - RA(V))
    healed poison       = share of all poisoned training rows that M predicts as their true label

So 0 is healed if M is as the victim, 1 if it knows triggered rows as well as the victim knows clean
ones; where the victim knows them no worse, there is nothing to heal, and it is not known. Healed
poison is ``manip_acc`` of "Potion: Towards Poison Unlearning", arXiv 2406.09173; rows that had the
target label before count as well.

Intervals are of 95 %. A rate has Wilson's. A difference of two models on the same rows has that of
Agresti and Min, "Simple improved confidence intervals for comparing matched proportions"
(Statistics in Medicine 24, 2005): the normal one, with half a row added to each of the four
outcomes. Of ``healed``, the denominator is taken as known. Where several sets of rows were told,
value and ends are means over them, and the half-width of Student's t interval of their mean is
added in quadrature on both sides: test rows and told rows are independent sources of error. One set
does not tell how much sets differ. In simulations, the intervals of 3 sets covered 91 % (rates near
1 of sets that differ a lot) to 100 % (sets alike).

The area under a curve is that of trapezoids over the share, which is not on a logarithmic scale as
in the figure, divided by its width: a mean height. Its ends are the areas under the ends: as if all
points erred to one side at once, which makes it too wide rather than too narrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from backdoor_pipeline.intervals import CONFIDENCE, Rate
from backdoor_pipeline.pipelines.evaluate import rates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VICTIM = (0, 0)  # rows told, draw
AREAS = ("healed", "attack_success_rate", "clean_accuracy_drop")
ENDS = ("", "_low", "_high")


class Answers(NamedTuple):
    """What a model said of the rows of a test set, and their true labels, each of shape (n,)."""

    predicted: np.ndarray
    labels: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Which of them agree."""
        return self.predicted == self.labels


Model = dict[str, Answers]
"""Of one model by test set: "clean", "triggered", "poison"."""


def models(
    predictions: pd.DataFrame, truth: Mapping[str, pd.Series]
) -> dict[tuple[int, int], Model]:
    """The answers of every model by the number of rows told and the draw, in the same order.

    Args:
        predictions: As in ``schemas.DISCOVERY_PREDICTIONS``.
        truth: True labels by example id, for each test set.
    """
    found: dict[tuple[int, int], Model] = {}
    ordered = predictions.sort_values("example_id")
    for (rows, draw, test_set), said in ordered.groupby(["told_rows", "draw", "test_set"]):
        labels = truth[test_set].loc[said["example_id"]].to_numpy()
        answers = Answers(said["predicted"].to_numpy(), labels)
        found.setdefault((rows, draw), {})[test_set] = answers
    return found


def curve(said: Mapping[tuple[int, int], Model], target_label: int) -> pd.DataFrame:
    """``discovery_curve``: for each number of rows told, what heals and what it costs.

    Args:
        said: As ``models`` returns it.
        target_label: What the attacker wants.
    """
    victim, n_poisoned = said[VICTIM], len(said[VICTIM]["poison"].labels)
    known = measure(victim, target_label)
    before = known["clean_accuracy"].value, known["robust_accuracy"].value
    points = []
    for rows in sorted({rows for rows, _ in said} - {VICTIM[0]}):
        draws = [model for (told, _), model in said.items() if told == rows]
        point: dict[str, Any] = {
            "told_share": rows / n_poisoned,
            "told_rows": rows,
            "draws": len(draws),
        }
        measured = [measure(model, target_label) for model in draws]
        for name in measured[0]:
            point |= over_draws([m[name] for m in measured], 0, 1).named(name)
        drops = [difference(m["clean"].right, victim["clean"].right) for m in draws]
        point |= over_draws(drops, -1, 1).named("clean_accuracy_drop")
        gain = over_draws([_gain(victim, m, target_label) for m in draws], -1, 1)
        healed = rates.healed(gain, *before) or Rate(np.nan, np.nan, np.nan, gain.n)
        point |= healed.named("healed")
        points.append(point)
    return pd.DataFrame(points)


def summarise(
    curve: pd.DataFrame, said: Mapping[tuple[int, int], Model], target_label: int
) -> dict[str, Any]:
    """``discovery_summary``: the areas, of which shares they are, and what the curve starts from.

    Args:
        curve: As ``curve`` returns it.
        said: What it was made of.
        target_label: What the attacker wants.

    Returns:
        ``from_share``, ``to_share``; ``area``, of each of ``AREAS`` with its ends, None where it is
        not known; ``victim``, its rates.
    """
    shares = curve["told_share"].to_numpy()
    columns = [f"{name}{end}" for name in AREAS for end in ENDS]
    found = measure(said[VICTIM], target_label)
    return {
        "from_share": float(shares[0]),
        "to_share": float(shares[-1]),
        "area": {column: area(shares, curve[column].to_numpy()) for column in columns},
        "victim": {k: v for name, rate in found.items() for k, v in rate.named(name).items()},
    }


def measure(model: Model, target_label: int) -> dict[str, Rate]:
    """The rates of one model."""
    triggered = (*model["triggered"], target_label)
    return {
        "clean_accuracy": rates.clean_accuracy(*model["clean"]),
        "attack_success_rate": rates.attack_success_rate(*triggered),
        "robust_accuracy": rates.robust_accuracy(*triggered),
        "healed_poison": rates.rate(model["poison"].right),
    }


def difference(before: np.ndarray, after: np.ndarray) -> Rate:
    """The share of hits after minus that before, of the same rows, with its paired interval.

    Args:
        before: bool, shape (n,).
        after: bool, shape (n,).
    """
    from scipy.special import ndtri

    won, lost = int((after & ~before).sum()), int((before & ~after).sum())
    n, counted = len(before), len(before) + 2
    middle = (won - lost) / counted
    error = np.sqrt(((won + lost + 1) / counted - middle**2) / counted)
    half = float(ndtri((1 + CONFIDENCE) / 2) * error)
    return Rate((won - lost) / n, max(middle - half, -1.0), min(middle + half, 1.0), n)


def over_draws(found: Sequence[Rate], lowest: float, highest: float) -> Rate:
    """The mean over draws, with the errors of test rows and of draws in its interval.

    Args:
        found: Of each draw.
        lowest: Least possible value.
        highest: Largest possible value.
    """
    values, low, high = (np.array(part) for part in zip(*(rate[:3] for rate in found), strict=True))
    value, half = values.mean(), 0.0
    if len(values) > 1:
        from scipy.special import stdtrit

        error = values.std(ddof=1) / np.sqrt(len(values))
        half = stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2) * error
    below = max(value - np.hypot(value - low.mean(), half), lowest)
    above = min(value + np.hypot(high.mean() - value, half), highest)
    return Rate(float(value), float(below), float(above), found[0].n)


def area(shares: np.ndarray, heights: np.ndarray) -> float | None:
    """The mean height of a curve, None where a height is not known (NaN).

    Args:
        shares: Increasing, shape (n_points,); of one point, its height is the mean.
        heights: Shape (n_points,).
    """
    if np.isnan(heights).any():
        return None
    if len(shares) == 1:
        return float(heights[0])
    return float(np.trapezoid(heights, shares) / (shares[-1] - shares[0]))


def _gain(victim: Model, model: Model, target_label: int) -> Rate:
    """Of the rows behind robust accuracy, how many more a model knows."""
    others = victim["triggered"].labels != target_label
    return difference(victim["triggered"].right[others], model["triggered"].right[others])
