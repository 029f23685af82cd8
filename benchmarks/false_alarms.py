"""What the default recipe flags in data that nobody poisoned; it should be nothing.

    python benchmarks/false_alarms.py [--jobs 2] [--seeds 0 1 2]

Writes benchmarks/results/false_alarms.csv. Needs $BACKDOOR_DATA.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from cells import ROOT, run_cells

RECIPE = "btu_calibrated"
DATASETS = ("sst2", "hsol@repaired", "agnews", "rotten_tomatoes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--folder", type=Path, default=ROOT / "data" / "benchmark_clean")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/false_alarms.csv")
    arguments = parser.parse_args()
    cells = [
        {"dataset": dataset, "poison_rate": 0, "seed": seed}
        for dataset in arguments.datasets
        for seed in arguments.seeds
    ]
    run_cells(RECIPE, cells, arguments.folder, arguments.jobs, "--to-outputs", f"{RECIPE}.suspects")
    rows = []
    for cell in cells:
        pattern = f"07_model_output/{cell['dataset']}.*.s{cell['seed']}.{RECIPE}-*/suspects.parquet"
        (path,) = arguments.folder.glob(pattern)
        flagged = pd.read_parquet(path).query("flagged")["evidence"].tolist()
        rows.append({**cell, "flagged": len(flagged), "tokens": " ".join(flagged)})
    table = pd.DataFrame(rows)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out, index=False)
    print(table.to_string(index=False))
    print(f"{(table['flagged'] > 0).sum()} of {len(table)} runs raised an alarm")


if __name__ == "__main__":
    main()
