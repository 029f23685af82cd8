"""One JSON file a task, written last and whole: what ran, what came out, or what went wrong."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_pipeline.datasets.whole import write_json
from backdoor_pipeline.experiments.cells import Cell
from backdoor_pipeline.experiments.grid import COORDINATES
from backdoor_pipeline.modelling.device import host_memory

DONE, FAILED, MISSING = "done", "failed", "missing"
PACKAGES = ("backdoor_pipeline", "kedro", "torch", "transformers", "numpy", "pandas", "mlflow")
GIB = 2**30
OF_THE_PURIFIED = {
    name: name
    for name in (
        "clean_accuracy",
        "attack_success_rate",
        "attack_success_excess",
        "attack_success_floor",
        "robust_accuracy",
        "target_recall",
    )
}
RATES = {
    "victim": {
        "clean_accuracy": "victim_clean_accuracy",
        "attack_success_rate": "victim_attack_success_rate",
        "target_recall": "victim_target_recall",
    },
    "reference": {"clean_accuracy": "reference_clean_accuracy"},
    "purified": OF_THE_PURIFIED,
    "comparison": {"healed": "healed"},
    "detector": {
        name: name
        for name in ("flagged", "false_alarms", "precision", "trigger_recall", "trigger_rank")
    },
    "cost": {name: name for name in ("wall_seconds", "peak_memory_bytes", "clean_rows")},
}
"""Part of a run's metrics -> its values -> their columns in the table of cells."""


@dataclass(frozen=True)
class Records:
    """The records of a grid, by the name of the task, and the logs beside them.

    Attributes:
        folder: Of the grid.
    """

    folder: Path

    def path(self, name: str) -> Path:
        """Where the record of a task is, or would be."""
        return self.folder / "records" / f"{name}.json"

    def log(self, name: str) -> Path:
        """What the processes of a task have printed."""
        return self.folder / "logs" / f"{name}.log"

    def job(self, name: str) -> Path:
        """What the process of a task is told to do."""
        return self.folder / "jobs" / f"{name}.json"

    def read(self, name: str) -> dict[str, Any] | None:
        """The record of a task, None if it has not ended."""
        try:
            return json.loads(self.path(name).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def status(self, name: str) -> str:
        """How a task has ended: done, failed, or missing (it has not)."""
        record = self.read(name)
        return record["status"] if record else MISSING

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        """Keep the record of a task that has ended."""
        write_json(self.path(name), record, default=str)

    def machines(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """What these tasks ran on, each machine once, with the threads of a task and the commit."""
        found: dict[str, dict[str, Any]] = {}
        for name in names:
            record = self.read(name) or {}
            if "machine" in record:
                about = {name: record.get(name) for name in ("threads", "git_commit")}
                machine = {**record["machine"], **about}
                found[json.dumps(machine, sort_keys=True)] = machine
        return list(found.values())


def cells_table(cells: Iterable[Cell], records: Records) -> pd.DataFrame:
    """One row a cell: coordinates, status, rates, detection and cost; empty where it has not ended.

    Args:
        cells: Of a grid.
        records: Of the same grid.
    """
    return pd.DataFrame([_row(cell, records.read(cell.id)) for cell in cells])


def _row(cell: Cell, record: dict[str, Any] | None) -> dict[str, Any]:
    record = record or {"status": MISSING}
    metrics = record.get("metrics") or {}
    values = {
        column: _number(metrics.get(part, {}).get(name))
        for part, columns in RATES.items()
        for name, column in columns.items()
    }
    return {
        **{name: cell.coordinates[name] for name in COORDINATES},
        "status": record["status"],
        "error": record.get("error"),
        "valid": metrics.get("valid"),
        "target_label": cell.target_label,
        **values,
        "predictions": record.get("predictions"),
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


@cache
def machine() -> dict[str, Any]:
    """What this process runs on, and with which versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(host_memory() / GIB, 1),
        "gpu": _gpu(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
