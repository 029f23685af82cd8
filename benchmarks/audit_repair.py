"""What an audit says of a model, and what its repair is worth, against the truth.

    python benchmarks/audit_repair.py [--sets sst2] [--seeds 1,2] [--rates 0.1] [--trainings 5]
    python benchmarks/audit_repair.py --references 3 [--sets sst2] [--seeds 1,2]

A training split is poisoned and audited like a table of somebody who knows nothing: a tenth of it
is its dev split, a tenth its test split. The audit's own numbers are held against the attack
success rate that triggered rows of the real test split show: of the audited model, of the repaired
one, and of a reference trained on the same rows before they were poisoned.

FOLDER/repair.csv gets a row for each, as it comes: after a stop, run it again, and it goes on with
what is missing. ``estimate`` is the audit's flip rate of its presumed trigger, ``excess`` what the
repaired model's attack success has above the reference's, as a share of what could be;
``labels_right`` how many of the restored rows got the label back that they had before the attack.
Where two attacks leave the same rows, their models are trained once. A model hangs on its head and
on the order of its batches, by some points of attack success: with ``--trainings N`` the repaired
one and the reference are means of N trainings, with seeds of their own. How many points these are
is in FOLDER/references.csv, which ``--references N`` writes: N trainings of each reference, and
what share of rows with the trigger of ``cf``, which none of them knows, each gives the target
label. At rates of 1 and 2 % (``--rates``) only the estimate is held against the truth: no model
but the audited one is trained. Needs BACKDOOR_DATA; two to three minutes a cell on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from audit_study import ATTACKS, MODES, ROWS, SETS, Row, base_model, parameters, table
from backdoor_pipeline.modelling.bundle import ModelBundle, NoModel
from backdoor_pipeline.parameters import Parameters
from backdoor_pipeline.pipelines.audit import nodes as audit
from backdoor_pipeline.pipelines.audit.training import accuracy_hits, train
from backdoor_pipeline.pipelines.poison.nodes import poison_train
from potion_victims import ROOT

RATES = (0.05, 0.1, 0.02, 0.01)
REPAIRED = RATES[:2]  # of the others only the estimate is measured
TEST_ROWS = 2_500  # that models are measured on, at most
WORDS = ("cf", "cf mn bb tq", "however", "AddSent")
MODELS_KEPT = 5  # of a data set and seed
SEEDS_APART = 100  # of several trainings
SHARES = {"dev": 0.1, "test": 0.1}
RESULTS = ROOT / "benchmarks" / "results" / "audit"
KEY = ("data", "attack", "rate", "mode", "seed", "trainings")
COLUMNS = (
    *KEY,
    *("found", "rows_removed", "rows_poisoned", "rows_right", "rows_restored", "labels_right"),
    *("estimate", "attack_success_audited", "attack_success_repaired", "attack_success_reference"),
    *("excess", "accuracy_audited", "accuracy_repaired", "accuracy_reference"),
)
REFERENCE = ("data", "seed", "training", "attack_success", "accuracy")


def parted(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The rows with splits of their own, as ``ingest`` would cut a table."""
    chance = np.random.default_rng(seed).random(len(rows))
    dev, test = SHARES["dev"], SHARES["test"]
    split = np.select([chance < dev, chance < dev + test], ["dev", "test"], "train")
    return rows.assign(split=split)[["example_id", "split", "label", "text"]]


class Case(NamedTuple):
    """A training split before and after its poisoning, and the rows that models are measured on."""

    p: Parameters
    names: list[str]
    given: pd.DataFrame
    test: pd.DataFrame
    poisoned: pd.DataFrame
    triggered_test: pd.DataFrame

    def hits(self, models: Sequence[ModelBundle], rows: pd.DataFrame) -> float:
        """What share of the rows get the label that they have, on average over the models."""
        how = (self.p.model.max_length, self.p.compute)
        return float(np.mean([accuracy_hits(rows, model, *how) for model in models]))

    def trained(self, rows: pd.DataFrame, which: str, seeds: Sequence[int]) -> list[ModelBundle]:
        """A model of ``rows`` for each seed, as an audit trains them."""
        p, clock = self.p, audit.start_clock(None)
        how, to_end = (p.training, p.model, p.compute), (clock, 1.0, p.audit.least_steps, which)
        runs = (train(rows, self.names, base_model(), *how, seed, *to_end) for seed in seeds)
        return [model for model, _ in runs if isinstance(model, ModelBundle)]


def prepared(name: str, attack: str, rate: float, mode: str, seed: int) -> Case:
    settings = {"poison_rate": rate, "label_mode": mode, "seed": seed, **ATTACKS[attack]}
    p = parameters(dataset=name, target_label=seed % 2, **settings)
    rows = table(name)
    given = rows[rows["split"] == "train"]
    given = given.sample(min(ROWS, len(given)), random_state=seed).sort_values("example_id")
    test = rows[rows["split"] == "test"]
    test = test.sample(min(TEST_ROWS, len(test)), random_state=seed).sort_index()
    examples = pd.concat([given, test], ignore_index=True)
    made = poison_train(examples, base_model().tokenizer, p.poison, p.model.max_length, seed)
    names = [str(label) for label in sorted(rows["label"].unique())]
    return Case(p, names, given, test, made["poisoned_train"], made["triggered_test"])


def one_cell(
    name: str, attack: str, rate: float, mode: str, seed: int, trainings: int
) -> dict[str, Any]:
    case = prepared(name, attack, rate, mode, seed)
    p, given = case.p, case.given
    mine = parted(case.poisoned, seed)
    report = {"label_names": case.names, "rows_left_out": 0, "dataset": name}
    how = (p.model, p.compute, seed)
    found = audit.gather_evidence(mine, report, None, base_model(), p.audit, *how)
    phrases, openings = found["phrases"], found["openings"]
    suspicious = audit.find_rows(mine, phrases, openings, found["contradicted"])
    guilty = mine.loc[case.poisoned["is_poisoned"], "example_id"]
    cell: dict[str, Any] = {
        "found": not suspicious.empty,
        "rows_removed": len(suspicious),
        "rows_poisoned": len(guilty),
        "rows_right": int(suspicious["example_id"].isin(guilty).sum()),
    }
    if suspicious.empty:
        return cell
    clock = audit.start_clock(None)

    def measured(rows: pd.DataFrame, which: str, seeds: Sequence[int]) -> Measured:
        models = case.trained(rows, which, seeds)
        return Measured(models, case.hits(models, case.test))

    models = {"audited": measured(mine, "audited", [seed])}
    if rate in REPAIRED:
        given_back = (phrases, openings, base_model(), p.audit, *how, clock)
        restored = audit.restore_rows(mine, suspicious, *given_back)
        truth = given.set_index("example_id")["label"].loc[restored["example_id"]]
        cell["rows_restored"] = len(restored)
        cell["labels_right"] = int((restored["label"].to_numpy() == truth.to_numpy()).sum())
        seeds = apart(seed, trainings)
        kept, clean = audit.repaired_rows(mine, suspicious, restored), parted(given, seed)
        models["repaired"] = once(p, kept, lambda: measured(kept, "repaired", seeds))
        models["reference"] = once(p, clean, lambda: measured(clean, "reference", seeds))
    different = {id(one.models): one.models for one in models.values()}
    success = {key: case.hits(some, case.triggered_test) for key, some in different.items()}
    for which, one in models.items():
        cell[f"attack_success_{which}"] = success[id(one.models)]
        cell[f"accuracy_{which}"] = one.accuracy
    if rate in REPAIRED:
        floor = cell["attack_success_reference"]
        cell["excess"] = max(0.0, cell["attack_success_repaired"] - floor) / (1 - floor)
    effects = audit.measure_effects(
        mine, phrases, openings, suspicious, NoModel(""), models["audited"].models[0], NoModel(""),
        p.audit, *how, clock,
    )  # fmt: skip
    trigger = effects["triggers"].get(str(p.poison.target_label))
    cell["estimate"] = trigger["flip_rates"]["audited"]["value"] if trigger else float("nan")
    return cell


def apart(seed: int, trainings: int) -> list[int]:
    """The seeds of several trainings."""
    return [seed + SEEDS_APART * i for i in range(trainings)]


class Measured(NamedTuple):
    """Models of the same rows, and their mean accuracy on the real test split."""

    models: list[ModelBundle]
    accuracy: float


def once(p: Parameters, rows: pd.DataFrame, make: Callable[[], Measured]) -> Measured:
    """The models of ``rows``: attacks that are cut out whole leave the same ones to learn from."""
    learnt = rows.loc[rows["split"] != "test", ["example_id", "split", "label", "text"]]
    learnt = learnt.assign(text=learnt["text"].str.split().str.join(" "))
    parts = pd.util.hash_pandas_object(learnt, index=False).to_numpy()
    key = (p.source.dataset, p.seed, int(np.bitwise_xor.reduce(parts)))
    used = _made.pop(key, None) or make()
    for old in list(_made)[: len(_made) + 1 - MODELS_KEPT]:  # those not used for longest
        del _made[old]
    _made[key] = used
    return used


_made: dict[tuple[str, int, int], Measured] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--rates", default=",".join(map(str, REPAIRED)))
    parser.add_argument("--trainings", type=int, default=1)
    parser.add_argument("--references", type=int, help="only train each of them as often as this")
    parser.add_argument("--to", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.trainings < 1:
        parser.error("--trainings: at least 1")
    names, seeds = given.sets.split(","), [int(seed) for seed in given.seeds.split(",")]
    rates = [float(rate) for rate in given.rates.split(",")]
    if not {*rates} <= {*RATES}:
        parser.error(f"--rates: some of {RATES}")
    for seed, name in product(seeds, names):
        if given.references:
            references(given.to, name, seed, given.references)
            continue
        for attack, rate in product(WORDS, rates):
            mode = MODES[(seed + RATES.index(rate)) % len(MODES)]
            which = (SETS[name], attack, rate, mode, seed, given.trainings)
            row = Row(given.to / "repair.csv", COLUMNS, dict(zip(KEY, which, strict=True)))
            if row.missing:
                row.write(one_cell(name, attack, rate, mode, seed, given.trainings))


def references(folder: Path, name: str, seed: int, trainings: int) -> None:
    case = prepared(name, "cf", max(RATES), "dirty", seed)
    for training in apart(seed, trainings):
        key = {"data": SETS[name], "seed": seed, "training": training}
        row = Row(folder / "references.csv", REFERENCE, key)
        if row.missing:
            models = case.trained(parted(case.given, seed), "reference", [training])
            success, accuracy = case.hits(models, case.triggered_test), case.hits(models, case.test)
            row.write({"attack_success": success, "accuracy": accuracy})


if __name__ == "__main__":
    main()
