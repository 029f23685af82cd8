"""Runs many cells as `kedro run`s, a few at a time, and reads their metrics back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def run_cells(
    pipelines: str, cells: list[dict[str, Any]], folder: Path, jobs: int, *options: str
) -> list[str]:
    """Run each cell with one thread a job; returns their standard output, empty where one failed.

    A finished cell costs a few seconds when run again, so an interrupted table can be continued.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs)),
        "BACKDOOR_TRACKING": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }

    def run(cell: dict[str, Any]) -> str:
        parameters = ",".join(f"{k}={v}" for k, v in {**cell, "data_dir": folder}.items())
        start = time.perf_counter()
        done = subprocess.run(
            ["kedro", "run", "--pipelines", pipelines, *options, "--params", parameters],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        name = "-".join(str(value) for value in cell.values()).replace("/", "_").replace(" ", "_")
        (folder / f"{name}.log").write_text(done.stderr + done.stdout)
        state = "done" if done.returncode == 0 else "FAILED"
        print(f"{state} in {time.perf_counter() - start:.0f} s: {cell}", flush=True)
        return done.stdout if done.returncode == 0 else ""

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(run, cells))


def metrics_of(stdout: str, recipe: str) -> dict[str, Any] | None:
    """The metrics of one recipe from a run's output; None if the run has none of that recipe."""
    paths = [line.split(": ", 1)[1] for line in stdout.splitlines() if line.startswith("metrics: ")]
    found = [Path(path) for path in paths if f".{recipe}-" in path]
    return json.loads(found[-1].read_text()) if found else None
