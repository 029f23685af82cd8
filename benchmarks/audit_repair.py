"""What an audit says of a model, and what its repair is worth, against the truth.

    python benchmarks/audit_repair.py [--sets sst2] [--seeds 1,2] [--to FOLDER]

A training split is poisoned and audited like a table of somebody who knows nothing: a tenth of it
is its dev split, a tenth its test split. The audit's own numbers are held against the attack
success rate that triggered rows of the real test split show: of the audited model, of the repaired
one, and of a reference trained on the same rows before they were poisoned.

FOLDER/repair.csv gets a row for each, as it comes: after a stop, run it again, and it goes on with
what is missing. ``estimate`` is the audit's flip rate of its presumed trigger, ``excess`` what the
repaired model's attack success has above the reference's, as a share of what could be. Needs
BACKDOOR_DATA; four minutes a cell on two cores.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from audit_study import ATTACKS, MODES, ROWS, SETS, base_model, parameters, table
from backdoor_pipeline.modelling.bundle import ModelBundle, NoModel
from backdoor_pipeline.parameters import Parameters
from backdoor_pipeline.pipelines.audit import nodes as audit
from backdoor_pipeline.pipelines.audit.training import accuracy_hits, train
from backdoor_pipeline.pipelines.poison.nodes import poison_train
from potion_victims import ROOT

RATES = (0.05, 0.1)
WORDS = ("cf", "cf mn bb tq", "however", "AddSent")
SHARES = {"dev": 0.1, "test": 0.1}
RESULTS = ROOT / "benchmarks" / "results" / "audit"
COLUMNS = (
    *("data", "attack", "rate", "mode", "seed", "found", "rows_removed", "rows_poisoned"),
    *("rows_right", "estimate", "attack_success_audited", "attack_success_repaired"),
    *("attack_success_reference", "excess", "accuracy_audited", "accuracy_repaired"),
    "accuracy_reference",
)


def parted(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The rows with splits of their own, as ``ingest`` would cut a table."""
    chance = np.random.default_rng(seed).random(len(rows))
    dev, test = SHARES["dev"], SHARES["test"]
    split = np.select([chance < dev, chance < dev + test], ["dev", "test"], "train")
    return rows.assign(split=split)[["example_id", "split", "label", "text"]]


def one_cell(name: str, attack: str, rate: float, mode: str, seed: int) -> dict[str, Any]:
    settings = {"poison_rate": rate, "label_mode": mode, "seed": seed, **ATTACKS[attack]}
    p = parameters(dataset=name, target_label=seed % 2, **settings)
    rows = table(name)
    given = rows[rows["split"] == "train"]
    given = given.sample(min(ROWS, len(given)), random_state=seed).sort_values("example_id")
    test = rows[rows["split"] == "test"]
    examples = pd.concat([given, test], ignore_index=True)
    made = poison_train(examples, base_model().tokenizer, p.poison, p.model.max_length, seed)
    poisoned, triggered = made["poisoned_train"], made["triggered_test"]
    mine = parted(poisoned, seed)
    names = {
        "label_names": [str(label) for label in sorted(rows["label"].unique())],
        "rows_left_out": 0,
    }
    evidence = audit.gather_evidence(
        mine, names, None, base_model(), p.audit, p.model, p.compute, seed
    )
    phrases, openings = evidence["phrases"], evidence["openings"]
    suspicious = audit.find_rows(mine, phrases, openings, evidence["contradicted"])
    guilty = poisoned.loc[poisoned["is_poisoned"], "example_id"]
    cell = {
        "found": not suspicious.empty,
        "rows_removed": len(suspicious),
        "rows_poisoned": len(guilty),
        "rows_right": int(suspicious["example_id"].isin(guilty).sum()),
    }
    if suspicious.empty:
        return cell
    clean = parted(given.reset_index(drop=True), seed)
    return cell | _measured(p, mine, names, clean, test, triggered, suspicious, phrases, openings)


def _measured(
    p: Parameters,
    mine: pd.DataFrame,
    names: dict[str, Any],
    clean: pd.DataFrame,
    test: pd.DataFrame,
    triggered: pd.DataFrame,
    suspicious: pd.DataFrame,
    phrases: pd.DataFrame,
    openings: pd.DataFrame,
) -> dict[str, Any]:
    clock = audit.start_clock(None)
    settings = (p.training, p.model, p.compute, p.seed, clock)
    given = (mine, suspicious, names, base_model(), p.audit)
    audited, _ = audit.train_model(*given, *settings, "audited")
    repaired, _ = audit.train_model(*given, *settings, "repaired")
    reference, _ = train(clean, names["label_names"], base_model(), *settings, 1.0, "reference")
    effects = audit.measure_effects(
        mine, phrases, openings, suspicious, NoModel(""), audited, repaired, p.audit, p.model,
        p.compute, p.seed, clock,
    )  # fmt: skip
    cell: dict[str, Any] = {}
    models = {"audited": audited, "repaired": repaired, "reference": reference}
    for which, model in models.items():
        assert isinstance(model, ModelBundle)
        success = accuracy_hits(triggered, model, p.model.max_length, p.compute)
        right = accuracy_hits(test, model, p.model.max_length, p.compute)
        cell[f"attack_success_{which}"] = float(success.mean())
        cell[f"accuracy_{which}"] = float(right.mean())
    floor = cell["attack_success_reference"]
    cell["excess"] = max(0.0, cell["attack_success_repaired"] - floor) / (1 - floor)
    trigger = effects["triggers"].get(str(p.poison.target_label))
    cell["estimate"] = trigger["flip_rates"]["audited"]["value"] if trigger else float("nan")
    return cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--to", type=Path, default=RESULTS)
    given = parser.parse_args()
    path = given.to / "repair.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=list(COLUMNS))
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if done.empty:
            writer.writeheader()
        for seed in map(int, given.seeds.split(",")):
            for name in given.sets.split(","):
                for attack in WORDS:
                    for rate in RATES:
                        mode = MODES[(seed + RATES.index(rate)) % len(MODES)]
                        which = [SETS[name], attack, rate, mode, seed]
                        if (done[["data", "attack", "rate", "mode", "seed"]] == which).all(1).any():
                            continue
                        cell = one_cell(name, attack, rate, mode, seed)
                        writer.writerow(dict(zip(COLUMNS, which, strict=False)) | cell)
                        file.flush()


if __name__ == "__main__":
    main()
