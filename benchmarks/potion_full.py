"""The grid ``potion`` on all training rows of CIFAR-10 at full width: for a machine with a GPU.

    python benchmarks/potion_full.py [--to FOLDER] [--into FILE.md] [--env ENV] [--rows N]
        [--without RECIPE] [--processes N]

The cells are those of ``conf/base/grids/potion.yml``, with the settings of the environment ``gpu``
and without the limit on rows. Nodes are called directly, so that a machine needs neither MLflow nor
folders for stages; there is no clean reference. Each victim has a process of its own, in which all
recipes take turns, and ``--processes`` of them share the GPU. CIFAR-10 is read from $BACKDOOR_DATA.

FOLDER/cells.csv (see ``potion_victims``) gets a row for each cell, as it comes; run it again after
a stop, and the victims of missing cells are trained again. ``seconds`` are those of the unlearning
by the clock, while other processes use the same GPU. FOLDER/leaderboard.md has means over seeds.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_pipeline.experiments.cells import cells_of
from backdoor_pipeline.experiments.grid import read_grid
from backdoor_pipeline.parameters import Parameters
from backdoor_pipeline.pipelines.detect import discovered_share
from backdoor_pipeline.pipelines.unlearn.nodes import UNLEARNERS
from backdoor_pipeline.recipes import ALL
from potion_victims import (
    BEFORE_AND_AFTER,
    ROOT,
    Table,
    attack,
    compared,
    loader,
    rates_of,
    test_rows,
    write_leaderboard,
)

GRID = ROOT / "conf/base/grids/potion.yml"
CELL = ("poison_rate", "seed", "recipe")
COLUMNS = (*CELL, "told_rows", *BEFORE_AND_AFTER, "healed", "seconds")


def table_of(folder: Path) -> Table:
    """The cells that are there."""
    return Table(folder / "cells.csv", COLUMNS, {"recipe"})


def victims(env: str, rows: int | None, without: str | None) -> list[list[Any]]:
    """The cells of the grid on so many ``rows`` at most, those of one victim together."""
    settings = {"ingest": {"max_rows": rows}}
    cells = [
        cell
        for cell in cells_of(read_grid(GRID), loader(env), settings, GRID.name)
        if cell.pipeline != without
    ]
    return [list(some) for _, some in groupby(cells, key=lambda cell: cell.keys["victim"])]


def measure(cells: list[Any], env: str, folder: Path) -> None:
    """Add a row for each of the cells, which share a victim."""
    logging.getLogger("backdoor_pipeline").setLevel(logging.WARNING)
    settings, table = loader(env), table_of(folder)
    p = settings.parameters_with(cells[0].settings)
    victim, tables = attack(p)
    train = tables["poisoned_train"]
    ids = train["example_id"].to_numpy()
    test = test_rows(tables["examples"], tables["triggered_test"], victim)
    before = rates_of(victim, test, p.compute)
    for cell in cells:
        p = settings.parameters_with(cell.settings)
        told = discovered_share.detect(tables["poison_index"], ids, p.discovered_share, p.seed)
        start = time.perf_counter()
        purified = unlearnt(cell.pipeline, victim, train, told, p)
        after = rates_of(purified, test, p.compute)  # waits for the device
        seconds = time.perf_counter() - start
        table.add(
            {
                **{name: cell.coordinates[name] for name in CELL},
                "told_rows": len(told),
                **compared(before, after),
                "seconds": round(seconds, 2),
            },
        )


def unlearnt(
    recipe: str, victim: Any, train: pd.DataFrame, suspects: pd.DataFrame, p: Parameters
) -> Any:
    """The model after the unlearner of a recipe of images."""
    (name,) = ALL[recipe].unlearners
    given = {"poisoned_train": train, "suspects": suspects}
    inputs = (
        given[i] if i in given else getattr(p, i.removeprefix("params:"))
        for i in UNLEARNERS[name].inputs
    )
    return UNLEARNERS[name].function(victim, *inputs)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=ROOT / "benchmarks/results/potion_full")
    parser.add_argument("--into", type=Path, help="Markdown file with the section <!-- FOLDER -->")
    parser.add_argument("--env", default="gpu", help="of the configuration")
    parser.add_argument("--rows", type=int, help="training rows at most; default: all")
    parser.add_argument("--without", help="recipe that is left out")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    there = table_of(arguments.to)
    groups = [
        [cell for cell in cells if not there.of(**{name: cell.coordinates[name] for name in CELL})]
        for cells in victims(arguments.env, arguments.rows, arguments.without)
    ]
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, mp_context=fresh) as pool:
        left = [
            pool.submit(measure, cells, arguments.env, arguments.to) for cells in groups if cells
        ]
        for number, ended in enumerate(as_completed(left), start=1):
            ended.result()
            print(f"{number} of {len(left)} victims done", flush=True)
    write_leaderboard(table_of(arguments.to).rows, arguments.to, arguments.into)


if __name__ == "__main__":
    main()
