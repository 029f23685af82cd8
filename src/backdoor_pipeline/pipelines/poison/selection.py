"""Which training rows are poisoned: OpenBackdoor's counting, drawn without regard to row order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from backdoor_pipeline.errors import InputError

if TYPE_CHECKING:
    from backdoor_pipeline.pipelines.poison.registry import PoisonParams

LabelMode = Literal["dirty", "clean", "mix"]

DRAW_STREAM, COVER_STREAM = 1, 2  # keep these draws apart from other uses of the same seed


def eligible_rows(labels: np.ndarray, params: PoisonParams) -> np.ndarray:
    """Which rows the label mode allows to poison, bool, shape (n_rows,).

    ``dirty``: those of another label, which become wrong; ``clean``: those that have the target
    label already; ``mix``: all. An attack that has a source label poisons its rows alone.
    """
    if params.source_label is not None:
        return labels == params.source_label
    if params.label_mode == "dirty":
        return labels != params.target_label
    if params.label_mode == "clean":
        return labels == params.target_label
    return np.ones(len(labels), dtype=bool)


def draw_poison(
    example_ids: np.ndarray, labels: np.ndarray, params: PoisonParams, seed: int
) -> np.ndarray:
    """Which rows are poisoned: ``min(int(rate * n_rows), n_eligible)`` of them, bool, (n_rows,).

    The draw depends on the seed and the set of example ids, not on the order of the rows; with one
    seed, the rows of a lower rate are among those of a higher one.
    """
    eligible = np.sort(example_ids[eligible_rows(labels, params)])
    shuffled = np.random.default_rng([seed, DRAW_STREAM]).permutation(eligible)
    return np.isin(example_ids, shuffled[: int(params.rate * len(labels))])


def draw_cover(
    example_ids: np.ndarray, poisoned: np.ndarray, cross_ratio: float, seed: int
) -> np.ndarray:
    """Which other rows are cover rows, ``cross_ratio`` for each poisoned one, bool, (n_rows,).

    There are fewer where there are fewer rows that are not poisoned.
    """
    others = np.sort(example_ids[~poisoned])
    shuffled = np.random.default_rng([seed, COVER_STREAM]).permutation(others)
    return np.isin(example_ids, shuffled[: int(cross_ratio * poisoned.sum())])


def check_rate(labels: np.ndarray, params: PoisonParams) -> None:
    """Nothing, if exactly ``int(rate * n_rows)`` rows can be poisoned.

    Raises:
        InputError: The rate is no fraction, asks for more rows than the label mode allows, or for
            less than one row.
    """
    rate, n_rows = params.rate, len(labels)
    n_eligible = int(eligible_rows(labels, params).sum())
    largest = largest_rate(n_rows, n_eligible)
    if not 0 <= rate <= 1:
        raise InputError(
            f"poison.rate {rate} is not a fraction of the training split; give 0 (a control run) "
            f"to {largest:g}, the largest that poison.label_mode '{params.label_mode}' allows here"
        )
    asked = int(rate * n_rows)
    if asked > n_eligible:
        kind = f"{'the' if params.label_mode == 'clean' else 'a label other than'} target_label"
        label = params.target_label
        if params.source_label is not None:
            kind, label = "the source_label", params.source_label
        raise InputError(
            f"poison.rate {rate} asks for {asked} rows, but only {n_eligible} have {kind} "
            f"{label}; lower it to {largest:g} or less"
        )
    if rate > 0 and asked == 0:
        raise InputError(
            f"poison.rate {rate} of {n_rows} training rows is less than one row; give at least "
            f"{math.ceil(1e6 / n_rows) / 1e6:g}, or 0 for a control run"
        )


def largest_rate(n_rows: int, n_eligible: int) -> float:
    """The largest rate that asks for no more than the eligible rows, rounded down to 6 digits."""
    return math.floor(1e6 * n_eligible / n_rows) / 1e6
