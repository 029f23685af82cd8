"""Whether an audit ends when its time is over: the wall clock of a whole run against its budget.

    python benchmarks/audit_budget.py [ROWS] [MINUTES] [--to FILE]

The table is that of ``audit_scale``, of fewer rows, in a csv file; the run is a ``kedro run`` in a
folder of its own. Written is what its verdict says of the models. Needs BACKDOOR_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from audit_scale import rows
from audit_study import RESULTS
from potion_victims import ROOT


def audited(n: int, minutes: float, folder: Path) -> dict[str, Any]:
    """What a run with this budget took, and what it says."""
    rows(n).to_csv(folder / "mine.csv", index=False)
    settings = {"data": folder / "mine.csv", "data_dir": folder / "out", "budget_minutes": minutes}
    given = ",".join(f"{name}={value}" for name, value in settings.items())
    command = [sys.executable, "-m", "kedro", "run", "--pipelines", "audit", "--params", given]
    began = time.perf_counter()
    exit_code = subprocess.run(command, cwd=ROOT, check=False).returncode
    seconds = time.perf_counter() - began
    (path,) = folder.glob("out/**/verdict.json")
    verdict = json.loads(path.read_text(encoding="utf-8"))
    models = {name: verdict[f"{name}_model"] for name in ("audited", "repaired")}
    return {
        "rows": n,
        "budget_seconds": 60 * minutes,
        "seconds": round(seconds, 1),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "exit_code": exit_code,
        "suspects": [suspect["written"] for suspect in verdict["suspects"]],
        "restored_rows": verdict["restored_rows"],
        "models": {
            name: {what: model[what] for what in ("status", "reason", "accuracy", "flip_rates")}
            for name, model in models.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="?", type=int, default=20_000)
    parser.add_argument("minutes", nargs="?", type=float, default=3.0)
    parser.add_argument("--to", type=Path, default=RESULTS / "budget.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = audited(given.rows, given.minutes, Path(folder))
    given.to.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
