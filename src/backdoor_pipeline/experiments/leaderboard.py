"""The tables of a grid of experiments: means over seeds, and over the settings that recipes share.

A setting is a data set, attack, poison rate, label mode and model; with a seed it is a cell, in
which each recipe has a row. Only where the attack was implanted does a row tell something about a
defence. Seeds of one setting resemble each other, so whatever speaks of all settings takes their
mean there: to take cells for independent would find differences where there are none.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pandera.pandas as pa

from backdoor_pipeline.experiments import statistics

SETTING = ["dataset", "attack", "poison_rate", "label_mode", "model"]
CELL = [*SETTING, "seed"]
ROW = [*SETTING, "recipe"]

UNDEFENDED = ["victim_clean_accuracy", "victim_attack_success_rate", "attack_success_floor"]
DEFENDED = ["clean_accuracy", "attack_success_rate", "attack_success_excess"]
DERIVED = ["clean_accuracy_loss", "defence_effectiveness"]
ROBUST = "robust_accuracy"
HEALED = "healed"  # of grids before images were there, it is not known
TARGET_RECALL = ["victim_target_recall", "target_recall"]  # of pairs alone
ABOUT_THE_ATTACK = {
    *("attack_success_rate", "attack_success_excess", "defence_effectiveness", ROBUST, HEALED),
}
DETECTION = ["flagged", "false_alarms", "precision", "trigger_recall", "trigger_rank"]
COST = ["wall_seconds", "peak_memory_bytes", "clean_rows"]
OVERALL = [*DERIVED, "attack_success_rate", "attack_success_excess"]
OVERALL_MEANS = ["trigger_recall", "false_alarms", "wall_seconds"]
COUNTS = ["valid", "invalid", "failed", "missing"]

RANKED_BY = "attack_success_excess"
NOT_IMPLANTED, NOT_POISONED = "attack not implanted", "nothing was poisoned"

_text = pa.Column(str)
_amount = pa.Column("float64", pa.Check.ge(0), nullable=True, coerce=True)
_rate = pa.Column("float64", pa.Check.in_range(0, 1), nullable=True, coerce=True)

CELLS = pa.DataFrameSchema(
    {
        **dict.fromkeys(("dataset", "attack", "label_mode", "model", "recipe"), _text),
        "poison_rate": pa.Column("float64", coerce=True),
        "seed": pa.Column("int64", coerce=True),
        "status": pa.Column(str, pa.Check.isin(("done", "failed", "missing"))),
        "error": pa.Column(nullable=True),
        "valid": pa.Column(nullable=True),
        "target_label": pa.Column("Int64", nullable=True, coerce=True),
        **dict.fromkeys((*DETECTION, *COST), _amount),
        **dict.fromkeys((*UNDEFENDED, *DEFENDED, "precision", "trigger_recall"), _rate),
        **dict.fromkeys(("reference_clean_accuracy", ROBUST), _rate),
        HEALED: pa.Column("float64", nullable=True, coerce=True, required=False),
        **dict.fromkeys(
            TARGET_RECALL, pa.Column("float64", nullable=True, coerce=True, required=False)
        ),
        "predictions": pa.Column(nullable=True),
    },
    checks=pa.Check(
        lambda cells: (
            ~implanted(cells)
            | cells[[*UNDEFENDED, *DEFENDED, "target_label", "predictions"]].notna().all(axis=1)
        ),
        error="a valid cell lacks a measurement",
    ),
    unique=[*CELL, "recipe"],
    strict=False,
    name="cells",
)
"""A row a cell and recipe; rates are fractions, of the purified model unless the name says whose.

``valid`` is False where the attack was not implanted. Rows that are not "done" have no
measurements, and an ``error`` if they failed. ``predictions`` is the path of a
``schemas.PREDICTIONS`` table as parquet.
"""


def implanted(cells: pd.DataFrame) -> pd.Series:
    """Which rows of ``cells`` are done and valid, bool, shape (n_rows,)."""
    return cells["status"].eq("done") & cells["valid"].isin([True])


def leaderboard(cells: pd.DataFrame) -> pd.DataFrame:
    """One row a setting and recipe: means over its valid seeds, in the order of ``cells``.

    Each rate has its 95 % interval in the columns ``_low`` and ``_high``, empty for one seed. A row
    without a valid seed, such as one of unpoisoned data, keeps its victim, clean accuracy, cost and
    what was flagged; ``note`` says why there is nothing on the attack.

    Args:
        cells: A ``CELLS`` table.
    """
    rows = [
        dict(zip(ROW, setting, strict=True)) | _summary(group)
        for setting, group in _with_derived(cells).groupby(ROW, sort=False)
    ]
    return pd.DataFrame(rows)


def overall(cells: pd.DataFrame) -> pd.DataFrame:
    """One row a recipe, lowest average rank first: means of the means of settings.

    The mean of a setting is over its cells of ``common``; intervals are over settings. ``settings``
    and ``cells`` are the numbers of both; ``valid``, ``invalid``, ``failed`` and ``missing`` count
    all rows of the recipe. ``average_rank`` is that of the excess, 1 for the lowest, ties shared.

    Args:
        cells: A ``CELLS`` table.
    """
    shared = common(_with_derived(cells))
    means = _over_seeds(shared, [*OVERALL, *OVERALL_MEANS])
    ranks = average_ranks(cells)
    rows = []
    for recipe, group in cells.groupby("recipe", sort=False):
        own = means[means["recipe"] == recipe]
        n_cells = int(shared["recipe"].eq(recipe).sum())
        row = {"recipe": recipe, "settings": len(own), "cells": n_cells}
        row |= {"average_rank": ranks.get(recipe, np.nan)}
        for name in OVERALL:
            row |= _interval(name, own[name])
        rows.append(row | own[OVERALL_MEANS].mean().to_dict() | _counts(group))
    return pd.DataFrame(rows).sort_values("average_rank", kind="stable", ignore_index=True)


def common(cells: pd.DataFrame) -> pd.DataFrame:
    """The rows of those cells in which every recipe is done and valid.

    A recipe that has no valid cell at all takes no part; otherwise none would be common.
    """
    valid = cells[implanted(cells)]
    n_recipes = valid.groupby(CELL)["recipe"].transform("size")
    return valid[n_recipes == valid["recipe"].nunique()]


def scores(cells: pd.DataFrame, measure: str) -> pd.DataFrame:
    """``measure``, shape (n_settings, n_recipes), recipes as they come.

    Each is the mean over the seeds of a setting that all recipes have, its cells of ``common``.
    """
    means = _over_seeds(common(_with_derived(cells)), [measure])
    return means.pivot(index=SETTING, columns="recipe", values=measure)[means["recipe"].unique()]


def average_ranks(cells: pd.DataFrame) -> pd.Series:
    """The mean rank of each recipe by excess over the settings of ``scores``; 1 is the lowest."""
    excess = scores(cells, RANKED_BY)
    ranks = statistics.average_ranks(excess) if len(excess) else np.full(excess.shape[1], np.nan)
    return pd.Series(ranks, index=excess.columns)


def varying(table: pd.DataFrame) -> list[str]:
    """The columns of ``SETTING`` to show: data set and attack, and what is not the same in all."""
    return [*SETTING[:2], *(name for name in SETTING[2:] if table[name].nunique() > 1)]


def settings(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of ``SETTING`` as texts, poison rates in per cent."""
    rates = [f"{100 * rate:g} %" for rate in table["poison_rate"]]
    return table[SETTING].assign(poison_rate=rates)


def _over_seeds(shared: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    """One row a setting and recipe: means of ``measures`` over its rows of ``shared``."""
    means = shared.groupby(ROW, sort=False, as_index=False)[measures].mean()
    return means.assign(**{name: means[name].clip(lower=0) for name in {RANKED_BY} & {*measures}})


def _with_derived(cells: pd.DataFrame) -> pd.DataFrame:
    """``cells`` with loss and rating, and with an excess below 0 where success is below the floor.

    To take the mean of values that are cut at 0 would find an excess where there is none.
    """
    before_after = ["victim_clean_accuracy", "clean_accuracy"]
    before_after += ["victim_attack_success_rate", "attack_success_rate"]
    rating = [statistics.defence_effectiveness(*row) for row in cells[before_after].to_numpy()]
    floor = cells["attack_success_floor"]
    return cells.assign(
        attack_success_excess=(cells["attack_success_rate"] - floor) / (1 - floor),
        clean_accuracy_loss=cells["victim_clean_accuracy"] - cells["clean_accuracy"],
        defence_effectiveness=np.array(rating, dtype=float),
    )


def _summary(rows: pd.DataFrame) -> dict[str, object]:
    """What the leaderboard tells about the seeds of one setting and recipe."""
    valid, done = rows[implanted(rows)], rows[rows["status"] == "done"]
    summary: dict[str, object] = {}
    known = [name for name in (HEALED, *TARGET_RECALL) if name in rows]
    for name in [*UNDEFENDED, *DEFENDED, *DERIVED, ROBUST, *known]:
        told = valid if name in ABOUT_THE_ATTACK or not valid.empty else done
        summary |= _interval(name, told[name])
    summary |= (done if valid.empty else valid)[[*DETECTION, *COST]].mean().to_dict()
    counts = _counts(rows)
    return summary | {"seeds": counts.pop("valid")} | counts | {"note": _note(rows)}


def _interval(name: str, values: pd.Series) -> dict[str, float]:
    """The mean of a rate over seeds or settings as ``{name, name_low, name_high}``."""
    known = values.dropna()
    lowest = {"clean_accuracy_loss": -1.0, RANKED_BY: -np.inf, HEALED: -np.inf}.get(name, 0.0)
    highest = np.inf if name == HEALED else 1.0
    found = np.full(3, np.nan)
    if len(known):
        found = np.array(statistics.mean_interval(known, lowest=lowest, highest=highest)[:3])
    if name == RANKED_BY:
        found = found.clip(min=0)
    return dict(zip((name, f"{name}_low", f"{name}_high"), found.tolist(), strict=True))


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    valid, status = implanted(rows), rows["status"]
    counts = (valid, status.eq("done") & ~valid, status.eq("failed"), status.eq("missing"))
    return {name: int(count.sum()) for name, count in zip(COUNTS, counts, strict=True)}


def _note(rows: pd.DataFrame) -> str:
    """Why there is no valid seed; nothing if there is one."""
    if implanted(rows).any():
        return ""
    if rows["status"].eq("done").any():
        return NOT_IMPLANTED if rows["poison_rate"].gt(0).any() else NOT_POISONED
    failed = rows["status"].eq("failed")
    return first_line(rows.loc[failed, "error"].iloc[0]) if failed.any() else "not run"


def first_line(error: object) -> str:
    """What an error says first, "failed" if it says nothing."""
    lines = error.strip().splitlines() if isinstance(error, str) else []
    return lines[0] if lines else "failed"
