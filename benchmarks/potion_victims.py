"""What the benchmarks of Potion share: settings, victims on images, their rates, tables of cells.

Cells have the columns ``poison_rate``, ``seed``, ``recipe`` and ``told_rows`` (how many poisoned
rows the defender is told), the ``RATES`` of the victim (``_before``) and of the model that was made
of it (``_after``), and ``healed``: the share of what the backdoor took that came back, (robust
accuracy after - before) / (clean accuracy before - robust accuracy before).
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from backdoor_pipeline import settings as project
from backdoor_pipeline.configuration import ProjectConfigLoader
from backdoor_pipeline.datasets import sources
from backdoor_pipeline.experiments.commands import replace_section
from backdoor_pipeline.keys import stage_keys
from backdoor_pipeline.modelling.bundle import ImageBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.training import Labelled, labelled
from backdoor_pipeline.parameters import Parameters
from backdoor_pipeline.pipelines.evaluate import rates
from backdoor_pipeline.pipelines.ingest.nodes import ingest
from backdoor_pipeline.pipelines.poison.nodes import poison_images
from backdoor_pipeline.pipelines.train.nodes import train_image_victim

ROOT = Path(__file__).resolve().parents[1]
TABLES = ("examples", "poisoned_train", "triggered_test", "poison_index")
RATES = ("clean_accuracy", "attack_success_rate", "robust_accuracy")
BEFORE_AND_AFTER = tuple(f"{rate}_{when}" for rate in RATES for when in ("before", "after"))
MOST_LOST, MOST_LEFT = 0.015, 0.10  # of clean accuracy; of attack success


def loader(env: str = "base", **changes: Any) -> ProjectConfigLoader:
    """The configuration of the project in an environment, with ``changes`` as by ``--params``."""
    arguments = {**project.CONFIG_LOADER_ARGS, "default_run_env": "base"}
    return ProjectConfigLoader(
        conf_source=str(ROOT / "conf"), env=env, runtime_params=changes, **arguments
    )


def parameters_of(
    data_dir: Path, name: str, **changes: Any
) -> tuple[Parameters, dict[str, str], Path]:
    """The parameters of the victim ``name`` in DIR/06_models, the keys they lead to, its folder.

    Args:
        data_dir: Of finished runs.
        name: Of the folder.
        changes: Parameters that do not make the victim.

    Raises:
        SystemExit: They lead to another folder: it was made by another version, or of other data.
    """
    folder = data_dir / "06_models" / name / "victim"
    provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    del provenance["written_by"]
    parameters = loader(**provenance | changes).typed_parameters
    keys = stage_keys(parameters)
    if keys["victim"] != name:
        raise SystemExit(
            f"{name}: its parameters lead to {keys['victim']}; take the version of the project "
            "that made it, and the data it was made of"
        )
    return parameters, keys, folder


def attack(p: Parameters) -> tuple[ImageBundle, dict[str, pd.DataFrame]]:
    """A victim, trained by the nodes of the pipeline, and the ``TABLES`` that belong to it."""
    examples = ingest(sources.read(p.source), p.ingest, p.seed)["examples"]
    tables = poison_images(examples, None, p.poison, p.seed) | {"examples": examples}
    victim, _ = train_image_victim(
        tables["poisoned_train"], examples, p.training, p.model, p.compute, p.seed
    )
    return victim, {name: tables[name] for name in TABLES}


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


def drawn(data: Labelled, n_rows: int, seed: int) -> Labelled:
    """At most ``n_rows`` rows, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(data.labels))[:n_rows]
    return data.take(np.sort(chosen))


def test_rows(examples: pd.DataFrame, triggered_test: pd.DataFrame, bundle: Any) -> TestRows:
    """The test rows as the model of ``bundle``, of images, reads them."""
    true = triggered_test.assign(label=triggered_test["source_label"])
    clean, triggered = (
        labelled(rows, bundle, 1) for rows in (examples[examples["split"] == "test"], true)
    )
    return TestRows(clean, triggered, int(triggered_test["label"].iloc[0]))


def rates_of(bundle: Any, test: TestRows, compute: ComputeParams) -> dict[str, float]:
    """The ``RATES`` of a model."""
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


def compared(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """The columns of cells from the rates before and after on."""
    values = {f"{name}_before": value for name, value in before.items()}
    values |= {f"{name}_after": value for name, value in after.items()}
    return values | {"healed": healed(before, after)}


def healed(before: dict[str, float], after: dict[str, float]) -> float:
    """See the module; NaN where the backdoor took nothing."""
    taken = before["clean_accuracy"] - before["robust_accuracy"]
    came_back = after["robust_accuracy"] - before["robust_accuracy"]
    return came_back / taken if taken > 0 else math.nan


class Table:
    """The rows of a csv file, each written when it is there, by whichever process.

    Args:
        path: Of the file, which is made if it is not there.
        columns: Its columns.
        words: Those that hold no numbers.

    Attributes:
        rows: All that were there at first, and those of this process.
    """

    def __init__(self, path: Path, columns: Iterable[str], words: Iterable[str]) -> None:
        self._path, self._columns = path, list(columns)
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]  # a stop may cut the last line
            if whole != text:
                os.truncate(path, len(whole.encode()))
            self.rows = [
                {name: value if name in words else float(value) for name, value in row.items()}
                for row in csv.DictReader(whole.splitlines())
            ]
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(dict(zip(self._columns, self._columns, strict=True)))

    def add(self, row: dict[str, Any]) -> None:
        """Write one more."""
        self._write(row)
        self.rows.append(row)

    def of(self, **values: Any) -> list[dict[str, Any]]:
        """The rows that have these values."""
        return [row for row in self.rows if values.items() <= row.items()]

    def _write(self, row: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)


def write_leaderboard(cells: list[dict[str, Any]], folder: Path, into: Path | None) -> None:
    """Means over seeds as ``folder``/leaderboard.md, and between the comments of that name.

    Args:
        cells: As the module says.
        folder: For the table; its name is that of the section.
        into: A Markdown file with that section; None: none.

    Raises:
        InputError: It has no such section.
    """
    text = leaderboard(cells)
    (folder / "leaderboard.md").write_text(text, encoding="utf-8")
    if into is not None:
        replace_section(into, folder.name, text)


def leaderboard(cells: list[dict[str, Any]]) -> str:
    """A line of Markdown for each rate and recipe, in the order of the first seed's cells."""
    names = (
        *("poison rate", "recipe", "seeds", "told rows", "CA before → after"),
        *("ASR before → after", "healed", f"cells with CA −{100 * MOST_LOST:.1f} at most"),
        f"with ASR {100 * MOST_LEFT:.0f} % at most",
    )
    lines = [in_markdown(names), in_markdown(["---"] * len(names))]
    frame = pd.DataFrame(cells).sort_values(["poison_rate", "seed"], kind="stable")
    for poison_rate, at_rate in frame.groupby("poison_rate"):
        first = f"{100 * poison_rate:g} %"
        for recipe, some in at_rate.groupby("recipe", sort=False):
            mean = some.mean(numeric_only=True)
            ca, asr = (
                f"{100 * mean[f'{name}_before']:.1f} → {100 * mean[f'{name}_after']:.1f}"
                for name in ("clean_accuracy", "attack_success_rate")
            )
            lost = some["clean_accuracy_before"] - some["clean_accuracy_after"]
            counts = (
                int((lost.round(6) <= MOST_LOST).sum()),
                int((some["attack_success_rate_after"] <= MOST_LEFT).sum()),
            )
            columns = (
                *(first, recipe, len(some), f"{mean['told_rows']:.0f}", ca, asr),
                *(f"{100 * mean['healed']:.1f}", *counts),
            )
            lines.append(in_markdown(columns))
            first = ""
    return "\n".join(lines) + "\n"


def in_markdown(cells: Iterable[Any]) -> str:
    """A line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"
