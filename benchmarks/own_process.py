"""Measurements that need a process of their own each: peak memory is that of a whole process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd


def measure_sizes(
    script: str,
    sizes: Iterable[int],
    make_table: Callable[[Path, int], object],
    options: list[str],
    out: Path,
) -> None:
    """Write what ``script --measure TABLE`` prints as JSON in its last line, a row for each size.

    Args:
        script: The benchmark itself.
        sizes: Rows of each table.
        make_table: Puts a table of so many rows at a path.
        options: Of the script besides.
        out: The csv file.
    """
    results: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        for rows in sizes:
            path = Path(folder) / f"{rows}.parquet"
            make_table(path, rows)
            command = [sys.executable, script, "--measure", str(path), *options]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(results[-1], flush=True)
    table = pd.DataFrame(results)
    out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(out, index=False, float_format="%.3f")
    print(table.to_string(index=False))
