"""How long grids take: one after the other, on Ray, and against the same runs on their own.

    python benchmarks/grid_speed.py [--out benchmarks/results/grid_speed.json]

All figures come from one run of this script; leave the machine alone meanwhile (ten minutes on two
cores). The load before each measurement is written down beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from backdoor_pipeline.datasets.whole import write_json
from backdoor_pipeline.experiments.records import machine

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ["wall_seconds", "peak_memory_bytes", "predictions"]
SHARED = {
    "reference": ("ingest,train", "reference_model,reference_history"),
    "victim": ("ingest,poison,train", "victim_history,victim_predictions,reference_predictions"),
}


def timed(arguments: list[str], folder: Path, threads: int | None = None) -> float:
    """Seconds of a ``kedro`` command with outputs and tracking store in ``folder``."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"},
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
    }
    load = os.getloadavg()[0]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "kedro", *arguments], cwd=ROOT, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}")
    print(f"{seconds:6.1f} s (load before: {load:.1f})  kedro {' '.join(arguments)}", flush=True)
    return seconds


def grid(folder: Path, path: str, *options: str) -> float:
    """Seconds of a whole grid."""
    return timed(
        ["benchmark", "run", path, *options, "--params", f"data_dir={folder / 'data'}"], folder
    )


def table(folder: Path, name: str) -> pd.DataFrame:
    """The cells of a grid, but for what differs from run to run."""
    path = folder / "data" / "08_reporting" / "grids" / name / "cells.csv"
    return pd.read_csv(path).drop(columns=MEASURED)


def executors(folder: Path) -> dict[str, Any]:
    """The smoke grid by each executor."""
    runs = {
        "serial, one thread": ("--cpus", "1"),
        "ray, one thread a cell": ("--executor", "ray", "--cpus", "1"),
        "serial, all threads": (),
    }
    seconds = {name: grid(folder / name, "smoke", *options) for name, options in runs.items()}
    serial, ray, threads = seconds.values()
    first, second, _ = (table(folder / name, "smoke") for name in runs)
    return {
        "seconds": seconds,
        "ray / serial with one thread": ray / serial,
        "ray / serial with all threads": ray / threads,
        "tables of serial and ray are the same": first.equals(second),
    }


def sharing(folder: Path) -> dict[str, Any]:
    """Four defences of one victim in a grid, against the same six runs on their own."""
    smoke = ROOT / "conf/base/grids/smoke.yml"
    settings = yaml.safe_load(smoke.read_text(encoding="utf-8")) | {"seeds": [0]}
    folder.mkdir(parents=True)
    path = folder / "four.yml"
    path.write_text(yaml.safe_dump(settings))
    whole = grid(folder / "grid", str(path))
    records = folder / "grid" / "data" / "08_reporting" / "grids" / "four" / "records"
    nodes = [n for file in records.glob("*.json") for n in json.loads(file.read_text())["nodes"]]
    start = folder / "alone"
    alone = {
        name: timed([*single(start, pipelines, {}), "--to-outputs", outputs], start)
        for name, (pipelines, outputs) in SHARED.items()
    }
    for recipe in settings["recipes"]:
        entry = recipe if isinstance(recipe, dict) else {"name": recipe, "recipe": recipe}
        own = shutil.copytree(start, folder / entry["name"])
        arguments = single(own, entry["recipe"], entry.get("parameters", {}))
        alone[entry["name"]] = timed(arguments, own)
    return {
        "seconds of the grid": whole,
        "seconds alone": alone,
        "grid / sum of the runs alone": whole / sum(alone.values()),
        "victims trained": nodes.count("train_victim"),
        "references trained": nodes.count("train_reference"),
    }


def single(folder: Path, pipelines: str, parameters: dict[str, Any]) -> list[str]:
    """The arguments of one ``kedro run`` of the cell that the grid runs."""
    values = {"data_dir": folder / "data", "seed": 0, **parameters}
    params = ",".join(f"{name}={value}" for name, value in values.items())
    return ["run", "--env", "smoke", "--pipelines", pipelines, "--params", params]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/grid_speed.json")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as name:
        load = os.getloadavg()
        results = {
            "executors": executors(Path(name) / "executors"),
            "sharing": sharing(Path(name) / "sharing"),
            "load before": load,
            "machine": machine(),
        }
    write_json(out, results)
    print(out.read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
