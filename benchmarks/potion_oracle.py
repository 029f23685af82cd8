"""SSD with an oracle: its two numbers chosen on test data, which no defender could do.

    python benchmarks/potion_oracle.py --data-dir DIR [VICTIM ...] [--to FOLDER] [--into FILE.md]
        [--test-rows N]

An upper bound on "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening",
arXiv 2308.07707, as Potion (arXiv 2406.09173) compares itself with it: the grid of its published
code, 50 pairs of alpha and lambda. DIR holds finished runs of a grid on images. VICTIM are folder
names in DIR/06_models; without any, all victims there are taken.

For each victim and each share of the poison that the defender is told, importances are measured
once, by the settings of the parameter group ``ssd``; the told rows are those that the detector
``discovered_share`` tells with the victim's seed. Every pair is then evaluated on the same drawn
clean and triggered test rows. The oracle takes the pair with the highest sum of clean accuracy and
robust accuracy there, the first of equals, and that pair is evaluated on all test rows.

FOLDER/cells.csv gets a row for each evaluation, as it comes, with the columns of
``potion_victims``, ``recipe`` being what is told: ``grid`` on the drawn rows, ``oracle`` for the
chosen pair on all. Run it again after a stop, and it goes on with what is missing.
FOLDER/leaderboard.md has the means over the victims of the oracle's pairs.
"""

from __future__ import annotations

import argparse
import copy
import os
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from backdoor_pipeline.modelling.bundle import ImageBundle
from backdoor_pipeline.modelling.image_models import PREPROCESSING, load_image_classifier
from backdoor_pipeline.modelling.training import Labelled
from backdoor_pipeline.parameters import Parameters
from backdoor_pipeline.pipelines.detect import discovered_share
from backdoor_pipeline.pipelines.detect.discovered_share import DiscoveredShareParams
from backdoor_pipeline.pipelines.unlearn import suspicion
from backdoor_pipeline.pipelines.unlearn.dampening import Ranking, rank
from potion_victims import (
    BEFORE_AND_AFTER,
    ROOT,
    Table,
    TestRows,
    compared,
    parameters_of,
    rates_of,
    test_rows,
    write_leaderboard,
)

ALPHAS = (0.1, 1.0, 10.0, 50.0, 100.0, 500.0, 1e3, 1e4, 1e5, 1e6)
LAMBDAS = (0.1, 0.5, 1.0, 5.0, 10.0)
"""Of alpha."""
TOLD: dict[str, dict[str, float]] = {
    "ssd 1 row (oracle)": {"rows": 1},
    "ssd 10 % (oracle)": {"share": 0.1},
    "ssd 50 % (oracle)": {"share": 0.5},
    "ssd 100 % (oracle)": {"share": 1.0},
}
"""What the defender is told of the poison, by the name in the table."""
GRID, ORACLE = "grid", "oracle"
COLUMNS = (
    *("victim", "seed", "poison_rate", "recipe", "told_rows", "choice", "alpha", "lambda"),
    *("dampened_parameters", "test_rows", *BEFORE_AND_AFTER, "healed"),
)


class Victim(NamedTuple):
    """A victim, what it was trained on, and what judges it."""

    name: str
    bundle: ImageBundle
    poisoned_train: pd.DataFrame
    poison_index: pd.DataFrame
    test: TestRows
    parameters: Parameters


def read_victim(data_dir: Path, name: str) -> Victim:
    """The victim of the folder ``name`` with its tables, whose keys follow from its parameters.

    Raises:
        SystemExit: See ``parameters_of``.
    """
    parameters, keys, folder = parameters_of(data_dir, name, modality="image")
    inputs, bundle = data_dir / "05_model_input" / keys["poison"], load_image_classifier(folder)
    examples = pd.read_parquet(data_dir / "03_primary" / keys["ingest"] / "examples.parquet")
    triggered_test = pd.read_parquet(inputs / "triggered_test.parquet")
    return Victim(
        name,
        bundle,
        pd.read_parquet(inputs / "poisoned_train.parquet"),
        pd.read_parquet(inputs / "poison_index.parquet"),
        test_rows(examples, triggered_test, bundle),
        parameters,
    )


def parted(victim: Victim, told: dict[str, float]) -> tuple[Labelled, Labelled]:
    """The rows that the defender is told, and all others."""
    params = DiscoveredShareParams.model_validate({"share": None, "rows": None, "ids": None} | told)
    ids, seed = victim.poisoned_train["example_id"].to_numpy(), victim.parameters.seed
    suspects = discovered_share.detect(victim.poison_index, ids, params, seed)
    return suspicion.parted(victim.poisoned_train, suspects, victim.bundle, 1)


class Pairs:
    """SSD of one victim, told some rows, with any alpha and lambda.

    Args:
        victim: Of the grid.
        ranking: Of its parameters.
    """

    def __init__(self, victim: Victim, ranking: Ranking) -> None:
        self._victim, self._ranking = victim, ranking
        self._compute = victim.parameters.compute
        self._known: dict[tuple[int, float, int], dict[str, float]] = {}

    def evaluated(self, alpha: float, lambda_: float, test: TestRows) -> dict[str, Any]:
        """The columns from ``dampened_parameters`` on; pairs of one outcome are evaluated once."""
        count = self._ranking.count(alpha, lambda_)
        before = self._rates(0, 0.0, test)
        after = self._rates(count, lambda_, test) if count else before
        return {
            "dampened_parameters": count,
            "test_rows": len(test.clean.labels),
            **compared(before, after),
        }

    def _rates(self, count: int, lambda_: float, test: TestRows) -> dict[str, float]:
        key = (count, lambda_, len(test.clean.labels))
        if key not in self._known:
            bundle = self._victim.bundle
            dampened = bundle._replace(model=copy.deepcopy(bundle.model))
            self._ranking.dampen(dampened.model, 0, count, lambda_)
            self._known[key] = rates_of(dampened, test, self._compute)
        return self._known[key]


def oracle(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row with the highest sum of clean and robust accuracy."""
    return max(rows, key=lambda r: r["clean_accuracy_after"] + r["robust_accuracy_after"])


def search(victim: Victim, told: str, n_test: int, table: Table) -> None:
    """Add what is missing of one victim and one of ``TOLD``."""
    p = victim.parameters
    forget, retain = parted(victim, TOLD[told])
    ranking = rank(victim.bundle, forget, retain, p.ssd.importances, p.compute, p.seed)
    pairs, some = Pairs(victim, ranking), victim.test.drawn(n_test, p.seed)
    start = {
        "victim": victim.name,
        "seed": p.seed,
        "poison_rate": p.poison.rate,
        "recipe": told,
        "told_rows": len(forget.labels),
    }

    def row(choice: str, alpha: float, lambda_: float, test: TestRows) -> dict[str, Any]:
        pair = {"choice": choice, "alpha": alpha, "lambda": lambda_}
        return start | pair | pairs.evaluated(alpha, lambda_, test)

    here = {"victim": victim.name, "recipe": told, "test_rows": len(some.clean.labels)}
    for alpha, factor in product(ALPHAS, LAMBDAS):
        lambda_ = round(alpha * factor, 9)  # 0.1 x 0.1 is 0.01 in the table
        if not table.of(**here, choice=GRID, alpha=alpha, **{"lambda": lambda_}):
            table.add(row(GRID, alpha, lambda_, some))
    best = oracle(table.of(**here, choice=GRID))
    table.add(row(ORACLE, best["alpha"], best["lambda"], victim.test))
    print(", ".join(f"{name} {value}" for name, value in table.rows[-1].items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("victims", nargs="*", metavar="VICTIM")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--to", type=Path, default=ROOT / "benchmarks/results/potion_oracle")
    parser.add_argument("--into", type=Path, help="Markdown file with the section <!-- FOLDER -->")
    parser.add_argument("--test-rows", type=int, default=2000, help="of each kind, in the grid")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models = arguments.data_dir / "06_models"
    found = sorted(path.parents[1].name for path in models.glob(f"*/victim/{PREPROCESSING}"))
    table = Table(arguments.to / "cells.csv", COLUMNS, {"victim", "recipe", "choice"})
    for name in arguments.victims or found:
        missing = [told for told in TOLD if not table.of(victim=name, recipe=told, choice=ORACLE)]
        if missing:
            victim = read_victim(arguments.data_dir, name)
        for told in missing:
            search(victim, told, arguments.test_rows, table)
    write_leaderboard(table.of(choice=ORACLE), arguments.to, arguments.into)


if __name__ == "__main__":
    main()
