"""Kills a run inside each of its nodes in turn, starts it again, and compares the final metrics.

``python tests/kill_and_resume.py`` does so with ``kedro run --env smoke`` and the packaged encoder,
in a temporary folder. Exit status 0: whatever the node, the run went on to the same numbers and no
file was left half-written where anybody reads it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KILLED_RUN = Path(__file__).with_name("killed_run.py")


def kill_in_each_node(
    arguments: Sequence[str], env: Mapping[str, str], seconds: Mapping[str, float] | None = None
) -> tuple[list[str], dict[str, Any]]:
    """The nodes in which the run was killed, and the metrics it ended with all the same.

    A node counts if it had to run again.

    Args:
        arguments: of ``kedro``; what is finished must not be run again.
        env: its environment.
        seconds: how long each node takes, by its name: it is killed half way, or after half a
            second where that is sooner. Without them it is killed at its beginning.
    """
    when = {name: min(0.5, value / 2) for name, value in (seconds or {}).items()}
    with tempfile.TemporaryDirectory() as folder:
        diary = Path(folder) / "diary"
        done = subprocess.run(
            [sys.executable, KILLED_RUN, diary, json.dumps(when), *arguments],
            cwd=ROOT,
            env=env,
            capture_output=True,
            check=False,
            encoding="utf-8",
        )
        lines = diary.read_text(encoding="utf-8").splitlines()
    killed = [line.removeprefix("killed ") for line in lines if line.startswith("killed ")]
    if done.returncode:
        raise RuntimeError(f"after kills in {killed} the run failed:\n{done.stderr}")
    path = done.stdout.rstrip("\n").splitlines()[-1].removeprefix("metrics: ")
    inside = [name for name in killed if f"again {name}" in lines]
    return inside, json.loads(Path(path).read_text(encoding="utf-8"))


def check_files(folder: Path) -> int:
    """How many JSON, parquet and safetensors files there are, every one of them readable."""
    import pandas as pd
    from safetensors import safe_open

    readers = {
        ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
        ".parquet": pd.read_parquet,
        ".safetensors": lambda path: [
            tensors.get_tensor(name)
            for tensors in [safe_open(path, framework="np")]
            for name in tensors.keys()
        ],
    }
    paths = [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix in readers
        and not any(part.endswith(".part") for part in path.parts)
    ]
    for path in paths:
        readers[path.suffix](path)
    return len(paths)


def without_cost(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that have to be the same in every run."""
    return {name: value for name, value in metrics.items() if name != "cost"}


def main() -> int:
    """Compare a killed run with an undisturbed one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
        arguments = ["run", "--env", "smoke", "--params"]
        undisturbed = subprocess.run(
            [sys.executable, "-m", "kedro", *arguments, f"data_dir={folder / 'undisturbed'}"],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        path = undisturbed.stdout.rstrip("\n").splitlines()[-1].removeprefix("metrics: ")
        expected = json.loads(Path(path).read_text(encoding="utf-8"))
        seconds = {
            path.stem.rpartition(".")[2]: json.loads(path.read_text())["wall_seconds"]
            for path in folder.glob("undisturbed/.costs/*/*.json")
        }
        again = [*arguments, f"data_dir={folder / 'killed'}"]
        killed, metrics = kill_in_each_node(again, env, seconds)
        n_files = check_files(folder / "killed")
    same = without_cost(metrics) == without_cost(expected)
    sys.stdout.write(f"killed in {len(killed)} nodes: {', '.join(killed)}\n")
    sys.stdout.write(f"metrics the same: {same}; files read: {n_files}\n")
    return 0 if same and set(killed) == seconds.keys() else 1


if __name__ == "__main__":
    sys.exit(main())
