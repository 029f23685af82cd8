"""BTU, published and calibrated, on SST-2 and HSOL: five attacks, three seeds.

    python benchmarks/btu_table.py [--jobs 2] [--seeds 0 1 2] [--datasets sst2 hsol@repaired]

Writes benchmarks/results/btu_table.csv (a row a cell and recipe) and btu_table.md (means).
Needs $BACKDOOR_DATA. Two hours on two cores; an interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from cells import ROOT, metrics_of, run_cells

ATTACKS: dict[str, dict[str, Any]] = {
    "BadNets (cf)": {"attack": "badnets"},
    "BadNets (4 words)": {"attack": "badnets", "trigger": "cf mn bb tq"},
    "AddSent": {"attack": "addsent"},
    "SynBkd": {"attack": "synbkd"},
    "StyleBkd": {"attack": "stylebkd"},
}
RECIPES = ("btu", "btu_calibrated")


def row(name: str, cell: dict[str, Any], recipe: str, metrics: dict[str, Any]) -> dict[str, Any]:
    victim, purified, found = metrics["victim"], metrics["purified"], metrics["detector"]
    return {
        "dataset": cell["dataset"],
        "attack": name,
        "seed": cell["seed"],
        "recipe": recipe,
        "valid": metrics["valid"],
        "victim_ca": victim["clean_accuracy"],
        "victim_asr": victim["attack_success_rate"],
        "floor": victim["attack_success_floor"],
        "ca": purified["clean_accuracy"],
        "ca_loss": victim["clean_accuracy"] - purified["clean_accuracy"],
        "asr": purified["attack_success_rate"],
        "excess": purified["attack_success_excess"],
        "trigger_rank": found["trigger_rank"],
        "trigger_recall": found["trigger_recall"],
        "flagged": found["flagged"],
        "false_tokens": found["false_alarms"],
        "clean_rows": metrics["cost"]["clean_rows"],
        "wall_seconds": metrics["cost"]["wall_seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--datasets", nargs="+", default=["sst2", "hsol@repaired"])
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--folder", type=Path, default=ROOT / "data" / "benchmark")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/btu_table")
    arguments = parser.parse_args()
    named = [
        (name, {"dataset": dataset, **ATTACKS[name], "seed": seed})
        for name in arguments.attacks
        for seed in arguments.seeds
        for dataset in arguments.datasets
    ]
    # cells that share a reference model run one after the other, so that it is trained once
    cells = [cell for _, cell in named]
    outputs = run_cells(",".join(RECIPES), cells, arguments.folder, arguments.jobs)
    rows = [
        row(name, cell, recipe, metrics)
        for (name, cell), output in zip(named, outputs, strict=True)
        for recipe in RECIPES
        if (metrics := metrics_of(output, recipe)) is not None
    ]
    write_tables(pd.DataFrame(rows), arguments.out)


def write_tables(table: pd.DataFrame, out: Path) -> None:
    """One row a cell as csv; means over seeds in per cent as markdown."""
    out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(out.with_suffix(".csv"), index=False, float_format="%.4f")
    rates = ["victim_ca", "victim_asr", "floor", "ca", "ca_loss", "asr", "excess", "trigger_recall"]
    counts = ["trigger_rank", "flagged", "false_tokens"]
    means = table.groupby(["dataset", "attack", "recipe"], sort=False)[rates + counts].mean()
    means[rates] *= 100
    means.insert(0, "seeds", table.groupby(["dataset", "attack", "recipe"], sort=False).size())
    lines = ["| " + " | ".join([*means.index.names, *means.columns]) + " |"]
    lines.append("|" + " --- |" * (len(means.index.names) + len(means.columns)))
    for index, values in means.iterrows():
        cells = [_number(value) for value in values]
        lines.append("| " + " | ".join([*index, *cells]) + " |")
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _number(value: float) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"


if __name__ == "__main__":
    main()
