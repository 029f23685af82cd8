"""The grid ``potion`` on all training rows of CIFAR-10 at full width: for a machine with a GPU.

    python benchmarks/potion_full.py --out FILE.csv [--env ENV] [--rows N] [--processes N]

The cells are those of ``conf/base/grids/potion.yml``, with the settings of the environment ``gpu``
and without the limit on rows. Nodes are called directly, so that a machine needs neither MLflow nor
folders for stages; there is no clean reference. Each victim has a process of its own, in which all
recipes take turns, and ``--processes`` of them share the GPU. CIFAR-10 is read from $BACKDOOR_DATA.

FILE gets a row for each cell, as it comes; run it again after a stop, and the victims of missing
cells are trained again. Rates and ``healed`` are those of ``potion_oracle``. ``seconds`` are those
of the unlearning by the clock, while other processes use the same GPU.
"""

from __future__ import annotations

import argparse
import csv
import io
import logging
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from potion_oracle import RATES, healed, rates_of, test_rows

ROOT = Path(__file__).resolve().parents[1]
GRID = ROOT / "conf/base/grids/potion.yml"
BEFORE_AND_AFTER = tuple(f"{rate}_{when}" for rate in RATES for when in ("before", "after"))
CELL = ("poison_rate", "seed", "recipe")
COLUMNS = (*CELL, "told_rows", *BEFORE_AND_AFTER, "healed", "seconds")


def loader(env: str) -> Any:
    """The configuration of the project in an environment."""
    from backdoor_pipeline import settings as project
    from backdoor_pipeline.configuration import ProjectConfigLoader

    arguments = {**project.CONFIG_LOADER_ARGS, "default_run_env": "base"}
    return ProjectConfigLoader(conf_source=str(ROOT / "conf"), env=env, **arguments)


def victims(env: str, rows: int | None) -> list[list[Any]]:
    """The cells of the grid on so many ``rows`` at most, those of one victim together."""
    from backdoor_pipeline.experiments.cells import cells_of
    from backdoor_pipeline.experiments.grid import read_grid

    settings = {"ingest": {"max_rows": rows}}
    cells = cells_of(read_grid(GRID), loader(env), settings, GRID.name)
    return [list(some) for _, some in groupby(cells, key=lambda cell: cell.keys["victim"])]


def measure(cells: list[Any], env: str, out: Path) -> None:
    """Add a row to the file ``out`` for each of the cells, which share a victim."""
    from backdoor_pipeline.datasets import sources
    from backdoor_pipeline.pipelines.detect import discovered_share
    from backdoor_pipeline.pipelines.ingest.nodes import ingest
    from backdoor_pipeline.pipelines.poison.nodes import poison_images
    from backdoor_pipeline.pipelines.train.nodes import train_image_victim

    logging.getLogger("backdoor_pipeline").setLevel(logging.WARNING)
    settings = loader(env)
    p = settings.parameters_with(cells[0].settings)
    examples = ingest(sources.read(p.source), p.ingest, p.seed)["examples"]
    poisoned = poison_images(examples, None, p.poison, p.seed)
    train = poisoned["poisoned_train"]
    ids = train["example_id"].to_numpy()
    victim, _ = train_image_victim(train, examples, p.training, p.model, p.compute, p.seed)
    test = test_rows(examples, poisoned["triggered_test"], victim)
    before = rates_of(victim, test, p.compute)
    for cell in cells:
        p = settings.parameters_with(cell.settings)
        told = discovered_share.detect(poisoned["poison_index"], ids, p.discovered_share, p.seed)
        start = time.perf_counter()
        purified = unlearnt(cell.pipeline, victim, train, told, p)
        after = rates_of(purified, test, p.compute)  # waits for the device
        seconds = time.perf_counter() - start
        add(
            out,
            {
                **{name: cell.coordinates[name] for name in CELL},
                "told_rows": len(told),
                **{f"{name}_before": value for name, value in before.items()},
                **{f"{name}_after": value for name, value in after.items()},
                "healed": healed(before, after),
                "seconds": round(seconds, 2),
            },
        )


def add(out: Path, row: dict[str, Any]) -> None:
    """Write one more row, at once, as other processes do."""
    line = io.StringIO()
    csv.DictWriter(line, COLUMNS, lineterminator="\n").writerow(row)
    with out.open("a", encoding="utf-8") as file:
        file.write(line.getvalue())


def unlearnt(recipe: str, victim: Any, train: pd.DataFrame, suspects: pd.DataFrame, p: Any) -> Any:
    """The model after the unlearner of a recipe of images."""
    from backdoor_pipeline.pipelines.unlearn.nodes import UNLEARNERS
    from backdoor_pipeline.recipes import ALL

    (name,) = ALL[recipe].unlearners
    given = {"poisoned_train": train, "suspects": suspects}
    inputs = (
        given[i] if i in given else getattr(p, i.removeprefix("params:"))
        for i in UNLEARNERS[name].inputs
    )
    return UNLEARNERS[name].function(victim, *inputs)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--env", default="gpu", help="of the configuration")
    parser.add_argument("--rows", type=int, help="training rows at most; default: all")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    if not arguments.out.exists():
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        add(arguments.out, dict(zip(COLUMNS, COLUMNS, strict=True)))
    there = pd.read_csv(arguments.out)
    done = set(there[list(CELL)].itertuples(index=False, name=None))
    groups = [
        [cell for cell in cells if tuple(cell.coordinates[name] for name in CELL) not in done]
        for cells in victims(arguments.env, arguments.rows)
    ]
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, mp_context=fresh) as pool:
        left = [
            pool.submit(measure, cells, arguments.env, arguments.out) for cells in groups if cells
        ]
        for number, ended in enumerate(as_completed(left), start=1):
            ended.result()
            print(f"{number} of {len(left)} victims done", flush=True)


if __name__ == "__main__":
    main()
