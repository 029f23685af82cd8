"""SSD with an oracle: its two numbers chosen on test data, which no defender could do.

    python benchmarks/potion_oracle.py --data-dir DIR --out FILE.csv [VICTIM ...] [--test-rows N]

An upper bound on "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening",
arXiv 2308.07707, as Potion (arXiv 2406.09173) compares itself with it: the grid of its published
code, 50 pairs of alpha and lambda. DIR holds finished runs of a grid on images. VICTIM are folder
names in DIR/06_models; without any, all victims there are taken.

For each victim and each share of the poison that the defender is told, importances are measured
once, by the settings of the parameter group ``ssd``; the told rows are those that the detector
``discovered_share`` tells with the victim's seed. Every pair is then evaluated on the same drawn
clean and triggered test rows. The oracle takes the pair with the highest sum of clean accuracy and
robust accuracy there, the first of equals, and that pair is evaluated on all test rows.

FILE gets a row for each evaluation, as it comes: ``grid`` on the drawn rows, ``oracle`` for the
chosen pair on all. Run it again after a stop, and it goes on with what is missing. ``healed`` is
the share of what the backdoor took that came back: (robust accuracy after - before) / (clean
accuracy before - robust accuracy before).
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import os
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.bundle import ImageBundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.training import Labelled
    from backdoor_pipeline.parameters import Parameters
    from backdoor_pipeline.pipelines.unlearn.dampening import Ranking

ROOT = Path(__file__).resolve().parents[1]
ALPHAS = (0.1, 1.0, 10.0, 50.0, 100.0, 500.0, 1e3, 1e4, 1e5, 1e6)
LAMBDAS = (0.1, 0.5, 1.0, 5.0, 10.0)
"""Of alpha."""
TOLD: dict[str, dict[str, float]] = {
    "1 row": {"rows": 1},
    "10 %": {"share": 0.1},
    "50 %": {"share": 0.5},
    "100 %": {"share": 1.0},
}
"""What the defender is told of the poison."""
GRID, ORACLE = "grid", "oracle"
RATES = ("clean_accuracy", "attack_success_rate", "robust_accuracy")
COLUMNS = (
    *("victim", "seed", "poison_rate", "told", "told_rows", "choice", "alpha", "lambda"),
    *("dampened_parameters", "test_rows"),
    *(f"{rate}_{when}" for rate in RATES for when in ("before", "after")),
    "healed",
)
WORDS = {"victim", "told", "choice"}
"""Columns that hold no numbers."""


class TestRows(NamedTuple):
    """What a model is judged by; all labels are the true ones.

    Attributes:
        clean: Test rows.
        triggered: Test rows of other labels than the target, triggered.
        target_label: What the attacker wants.
    """

    clean: Labelled
    triggered: Labelled
    target_label: int

    def drawn(self, n_rows: int, seed: int) -> TestRows:
        """At most ``n_rows`` of each kind."""
        return TestRows(
            drawn(self.clean, n_rows, seed), drawn(self.triggered, n_rows, seed), self.target_label
        )


class Victim(NamedTuple):
    """A victim, what it was trained on, and what judges it."""

    name: str
    bundle: ImageBundle
    poisoned_train: pd.DataFrame
    poison_index: pd.DataFrame
    test: TestRows
    parameters: Parameters


def drawn(data: Labelled, n_rows: int, seed: int) -> Labelled:
    """At most ``n_rows`` rows, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(data.labels))[:n_rows]
    return data.take(np.sort(chosen))


def test_rows(examples: pd.DataFrame, triggered_test: pd.DataFrame, bundle: Any) -> TestRows:
    """The test rows as the model of ``bundle``, of images, reads them."""
    from backdoor_pipeline.modelling.training import labelled

    true = triggered_test.assign(label=triggered_test["source_label"])
    clean, triggered = (
        labelled(rows, bundle, 1) for rows in (examples[examples["split"] == "test"], true)
    )
    return TestRows(clean, triggered, int(triggered_test["label"].iloc[0]))


def rates_of(bundle: Any, test: TestRows, compute: ComputeParams) -> dict[str, float]:
    """The ``RATES`` of a model."""
    from backdoor_pipeline.modelling.prediction import predict
    from backdoor_pipeline.pipelines.evaluate import rates

    clean, triggered = (
        predict(bundle, rows.inputs, compute).argmax(axis=1)
        for rows in (test.clean, test.triggered)
    )
    labels, target = test.triggered.labels, test.target_label
    found = (
        rates.clean_accuracy(clean, test.clean.labels),
        rates.attack_success_rate(triggered, labels, target),
        rates.robust_accuracy(triggered, labels, target),
    )
    return {name: rate.value for name, rate in zip(RATES, found, strict=True)}


def read_victim(data_dir: Path, name: str) -> Victim:
    """The victim of the folder ``name`` with its tables, whose keys follow from its parameters.

    Raises:
        SystemExit: They lead to another folder: it was made by another version, or of other data.
    """
    from backdoor_pipeline import settings as project
    from backdoor_pipeline.configuration import ProjectConfigLoader
    from backdoor_pipeline.keys import stage_keys
    from backdoor_pipeline.modelling.image_models import load_image_classifier

    folder = data_dir / "06_models" / name / "victim"
    provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    del provenance["written_by"]
    arguments = {**project.CONFIG_LOADER_ARGS, "default_run_env": "base"}
    loader = ProjectConfigLoader(
        conf_source=str(ROOT / "conf"),
        env="base",
        runtime_params={**provenance, "modality": "image"},
        **arguments,
    )
    keys = stage_keys(loader.typed_parameters)
    if keys["victim"] != name:
        raise SystemExit(
            f"{name}: its parameters lead to {keys['victim']}; take the version of the project "
            "that made it, and the data it was made of"
        )
    inputs, bundle = data_dir / "05_model_input" / keys["poison"], load_image_classifier(folder)
    examples = pd.read_parquet(data_dir / "03_primary" / keys["ingest"] / "examples.parquet")
    triggered_test = pd.read_parquet(inputs / "triggered_test.parquet")
    return Victim(
        name,
        bundle,
        pd.read_parquet(inputs / "poisoned_train.parquet"),
        pd.read_parquet(inputs / "poison_index.parquet"),
        test_rows(examples, triggered_test, bundle),
        loader.typed_parameters,
    )


def parted(victim: Victim, told: dict[str, float]) -> tuple[Labelled, Labelled]:
    """The rows that the defender is told, and all others."""
    from backdoor_pipeline.pipelines.detect import discovered_share
    from backdoor_pipeline.pipelines.detect.discovered_share import DiscoveredShareParams
    from backdoor_pipeline.pipelines.unlearn import suspicion

    params = DiscoveredShareParams.model_validate({"share": None, "rows": None, "ids": None} | told)
    ids, seed = victim.poisoned_train["example_id"].to_numpy(), victim.parameters.seed
    suspects = discovered_share.detect(victim.poison_index, ids, params, seed)
    return suspicion.parted(victim.poisoned_train, suspects, victim.bundle, 1)


class Table:
    """The rows of a csv file, each written when it is there.

    Attributes:
        rows: All of them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]  # a stop may cut the last line
            if whole != text:
                os.truncate(path, len(whole.encode()))
            self.rows = [
                {name: value if name in WORDS else float(value) for name, value in row.items()}
                for row in csv.DictReader(whole.splitlines())
            ]
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(dict(zip(COLUMNS, COLUMNS, strict=True)))

    def add(self, row: dict[str, Any]) -> None:
        """Write one more."""
        self._write(row)
        self.rows.append(row)

    def of(self, **values: Any) -> list[dict[str, Any]]:
        """The rows that have these values."""
        return [row for row in self.rows if values.items() <= row.items()]

    def _write(self, row: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)


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
            **{f"{name}_before": value for name, value in before.items()},
            **{f"{name}_after": value for name, value in after.items()},
            "healed": healed(before, after),
        }

    def _rates(self, count: int, lambda_: float, test: TestRows) -> dict[str, float]:
        key = (count, lambda_, len(test.clean.labels))
        if key not in self._known:
            bundle = self._victim.bundle
            dampened = bundle._replace(model=copy.deepcopy(bundle.model))
            self._ranking.dampen(dampened.model, 0, count, lambda_)
            self._known[key] = rates_of(dampened, test, self._compute)
        return self._known[key]


def healed(before: dict[str, float], after: dict[str, float]) -> float:
    """See the module; NaN where the backdoor took nothing."""
    taken = before["clean_accuracy"] - before["robust_accuracy"]
    came_back = after["robust_accuracy"] - before["robust_accuracy"]
    return came_back / taken if taken > 0 else math.nan


def oracle(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row with the highest sum of clean and robust accuracy."""
    return max(rows, key=lambda r: r["clean_accuracy_after"] + r["robust_accuracy_after"])


def search(victim: Victim, told: str, n_test: int, table: Table) -> None:
    """Add what is missing of one victim and one of ``TOLD``."""
    from backdoor_pipeline.pipelines.unlearn.dampening import rank

    p = victim.parameters
    forget, retain = parted(victim, TOLD[told])
    ranking = rank(victim.bundle, forget, retain, p.ssd.importances, p.compute, p.seed)
    pairs, some = Pairs(victim, ranking), victim.test.drawn(n_test, p.seed)
    start = {
        "victim": victim.name,
        "seed": p.seed,
        "poison_rate": p.poison.rate,
        "told": told,
        "told_rows": len(forget.labels),
    }

    def row(choice: str, alpha: float, lambda_: float, test: TestRows) -> dict[str, Any]:
        pair = {"choice": choice, "alpha": alpha, "lambda": lambda_}
        return start | pair | pairs.evaluated(alpha, lambda_, test)

    here = {"victim": victim.name, "told": told, "test_rows": len(some.clean.labels)}
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
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--test-rows", type=int, default=2000, help="of each kind, in the grid")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()

    import torch

    from backdoor_pipeline.modelling.image_models import PREPROCESSING

    torch.set_num_threads(arguments.threads)
    models = arguments.data_dir / "06_models"
    found = sorted(path.parents[1].name for path in models.glob(f"*/victim/{PREPROCESSING}"))
    table = Table(arguments.out)
    for name in arguments.victims or found:
        missing = [told for told in TOLD if not table.of(victim=name, told=told, choice=ORACLE)]
        if missing:
            victim = read_victim(arguments.data_dir, name)
        for told in missing:
            search(victim, told, arguments.test_rows, table)


if __name__ == "__main__":
    main()
