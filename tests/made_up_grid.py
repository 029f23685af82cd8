"""Cells of a grid of experiments that never ran, and predictions that agree with their rates."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from pathlib import Path

TARGET = 1
DONE = {
    "dataset": "sst2", "attack": "badnets", "poison_rate": 0.1, "label_mode": "mix",
    "model": "minilm", "seed": 0, "recipe": "btu", "status": "done", "error": None,
    "valid": True, "target_label": TARGET, "predictions": "never/read.parquet",
}  # fmt: skip
MEASURED = {
    "victim_clean_accuracy": 0.9, "victim_attack_success_rate": 1.0,
    "reference_clean_accuracy": 0.9, "attack_success_floor": 0.1, "clean_accuracy": 0.88,
    "attack_success_rate": 0.2, "attack_success_excess": 1 / 9, "robust_accuracy": 0.7,
    "flagged": 30.0, "false_alarms": 29.0, "precision": 1 / 30, "trigger_recall": 1.0,
    "trigger_rank": 1.0, "wall_seconds": 100.0, "peak_memory_bytes": 2.0**30, "clean_rows": 0.0,
}  # fmt: skip
ERROR = "OSError: disk <full>\nTraceback"
RECIPES = {  # false alarms, loss of clean accuracy, excess, seconds, clean rows
    "btu_calibrated": (0, -0.002, 0.006, 440, 870),
    "btu": (30, 0.034, 0.055, 390, 0),
    "btu + fine-tune": (30, 0.012, 0.03, 520, 870),
}
DATASETS = {"sst2": (0.876, 0.105), "hsol@repaired": (0.948, 0.035)}  # accuracy, floor
ATTACKS = {"BadNets (cf)": 1, "AddSent": 5, "StyleBkd": 0}  # trigger tokens


def cell(**values: Any) -> dict[str, Any]:
    """A done and valid row of a ``CELLS`` table, with ``values`` in place of its own.

    Of success and excess, the one that is not among them follows from the other.
    """
    row = DONE | MEASURED | values
    floor, success, excess = "attack_success_floor", "attack_success_rate", "attack_success_excess"
    if excess in values:
        row[success] = row[floor] + row[excess] * (1 - row[floor])
    return row | {excess: max(0.0, (row[success] - row[floor]) / (1 - row[floor]))}


def failed(**values: Any) -> dict[str, Any]:
    """A row of a run that ended with ``ERROR``."""
    state = {"status": "failed", "error": ERROR, "valid": None, "predictions": None}
    return DONE | dict.fromkeys(MEASURED, np.nan) | state | values


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    """The rows as a ``CELLS`` table."""
    return pd.DataFrame(rows)


def predictions(accuracy: float, success: float, seed: object, n: int = 200) -> pd.DataFrame:
    """A ``PREDICTIONS`` table of two classes with about these rates, for victim and purified."""
    rng = np.random.default_rng(seed)
    labels, sets = np.arange(n) % 2, {}
    sets["clean"] = np.where(rng.random(n) < accuracy, labels, 1 - labels)
    sets["triggered"] = np.where(rng.random(n) < success, TARGET, 1 - TARGET)
    tables = [
        pd.DataFrame({"example_id": np.arange(n), "test_set": test_set, "model": model,
                      "label": labels, "predicted": predicted, "probability": 0.9})
        for model in ("victim", "purified")
        for test_set, predicted in sets.items()
    ]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def make_grid(folder: Path) -> pd.DataFrame:
    """2 data sets, 3 attacks, 3 recipes, 3 seeds; one attack not implanted, one run failed."""
    rng = np.random.default_rng(0)
    rows = []
    for dataset, attack, seed in product(DATASETS, ATTACKS, range(3)):
        accuracy, floor = DATASETS[dataset]
        accuracy += rng.normal(0, 0.004)
        floor += rng.normal(0, 0.01) + 0.1 * (attack == "StyleBkd")
        valid = (dataset, attack) != ("hsol@repaired", "StyleBkd")
        implanted = 1.0 if ATTACKS[attack] else 0.7
        for recipe, (false, loss, excess, seconds, clean_rows) in RECIPES.items():
            setting = {"dataset": dataset, "attack": attack, "seed": seed, "recipe": recipe}
            if (dataset, attack, seed, recipe) == ("sst2", "AddSent", 2, "btu + fine-tune"):
                rows.append(failed(**setting))
                continue
            left = abs((excess if ATTACKS[attack] else 0.5) + rng.normal(0, 0.01))
            after = accuracy - loss - rng.normal(0, 0.004)
            success = floor + left * (1 - floor) if valid else floor
            path = folder / f"{len(rows)}.parquet"
            predictions(after, success, [seed, len(rows)]).to_parquet(path)
            rows.append(
                cell(
                    **setting,
                    valid=valid,
                    victim_clean_accuracy=accuracy,
                    victim_attack_success_rate=implanted if valid else floor + 0.01,
                    attack_success_floor=floor,
                    clean_accuracy=after,
                    attack_success_rate=success,
                    attack_success_excess=(success - floor) / (1 - floor),
                    flagged=float(false + ATTACKS[attack]),
                    false_alarms=float(false),
                    trigger_recall=1.0 if ATTACKS[attack] else np.nan,
                    wall_seconds=seconds + rng.normal(0, 20),
                    clean_rows=float(clean_rows),
                    predictions=str(path),
                )
            )
    return table(*rows)
