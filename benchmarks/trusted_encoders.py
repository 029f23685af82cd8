"""How UBT depends on the encoder that its defender must own.

    python benchmarks/trusted_encoders.py --data-dir DIR [VICTIM ...] [--to FOLDER]

DIR holds finished runs of the grid ``ubt``. VICTIM are folder names in DIR/06_models; without any,
all victims there are taken. Each is looked at with each of ``OWNED``: an encoder that was drawn and
knows nothing; encoders trained on so many clean pairs; and one that stands for a public checkpoint,
trained on all pairs of the data set that are not in the examples of the victim's seed (27,500 of
CIFAR-10), by the settings of the victim, so that it is as good as that.

FOLDER/cells.csv gets a row for each, as it comes: run it again after a stop, and it goes on with
what is missing. ``trusted_accuracy`` is the encoder's own zero-shot accuracy on the test images.
FOLDER/trusted_encoders.html and .json have the figure (plotly).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from backdoor_pipeline.datasets import sources
from backdoor_pipeline.modelling.bundle import PairBundle
from backdoor_pipeline.modelling.dual_encoders import load_dual_encoder
from backdoor_pipeline.parameters import Parameters
from backdoor_pipeline.pipelines.detect import nodes as detect
from backdoor_pipeline.pipelines.evaluate.nodes import (
    model_metrics,
    name_classes,
    of_target,
    predict_victim,
)
from backdoor_pipeline.pipelines.ingest.nodes import ingest
from backdoor_pipeline.pipelines.train.nodes import train_pair_reference
from backdoor_pipeline.pipelines.unlearn.nodes import forget_locally
from potion_victims import ROOT, Table, parameters_of

OWNED = {"nothing": 0, "200": 200, "500": 500, "2,000": 2000, "public": None}
"""Clean pairs that the trusted encoder is trained on, by the name in the figure; None: all that are
not in the examples."""
AUGMENTATION = {"padding": 4, "flip": True}  # of the trusted encoder, as in the grid
RATES = ("clean_accuracy", "target_recall", "attack_success_rate")
COLUMNS = (
    *("victim", "attack", "poison_rate", "seed", "owned", "pairs", "trusted_accuracy", "found"),
    *(
        "flagged",
        "precision",
        *(f"{rate}_{when}" for rate in RATES for when in ("before", "after")),
    ),
)
WORDS = {"victim", "attack", "owned"}


class Cell(NamedTuple):
    """A victim, the tables that belong to it, and what asks it for classes."""

    name: str
    bundle: PairBundle
    p: Parameters
    tables: dict[str, pd.DataFrame]
    prompts: dict[str, list[list[str]]]


def read_cell(data_dir: Path, name: str) -> Cell:
    """The victim of the folder ``name``, whose keys follow from its parameters.

    Raises:
        SystemExit: See ``parameters_of``.
    """
    own = {"augmentation": AUGMENTATION}
    p, keys, folder = parameters_of(data_dir, name, modality="pair", trusted_encoder=own)
    inputs, made = (
        data_dir / place / keys[stage]
        for place, stage in (("05_model_input", "poison"), ("03_primary", "ingest"))
    )
    tables = {
        table: pd.read_parquet(inputs / f"{table}.parquet")
        for table in ("poisoned_train", "triggered_test")
    }
    tables["examples"] = pd.read_parquet(made / "examples.parquet")
    said = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (made / "integrity.json", inputs / "poison_summary.json")
    )
    named = p.model.model_copy(update={"name": str(folder), "tower": None})
    return Cell(name, load_dual_encoder(named), p, tables, name_classes(*said, p.ingest))


def owned_encoder(cell: Cell, pairs: int | None) -> tuple[PairBundle, pd.DataFrame]:
    """The trusted encoder, and the pairs that it was trained on."""
    p, examples = cell.p, cell.tables["examples"]
    if pairs is None:
        everything = ingest(
            sources.read(p.source), p.ingest.model_copy(update={"max_rows": None}), p.seed
        )["examples"]
        others = everything[~everything["image"].isin(set(examples["image"]))]
        others = others[others["split"] != "test"].assign(split="train")
        settings = (p.training, p.model, p.compute, p.seed + 1)  # another network than the victim
        return train_pair_reference(others, *settings)[0], others
    params = p.trusted_encoder.model_copy(update={"rows": pairs})
    trusted = detect.draw_trusted_pairs(examples, params, p.model, p.seed)
    settings = (params, p.model, p.compute, p.seed)
    return detect.train_trusted_encoder(trusted, examples, *settings), trusted


def judged(bundle: PairBundle, cell: Cell) -> dict[str, float]:
    """The ``RATES`` of a dual encoder."""
    examples, triggered = cell.tables["examples"], cell.tables["triggered_test"]
    said = predict_victim(bundle, examples, triggered, cell.p.model, cell.p.compute, cell.prompts)
    target = int(triggered["label"].iloc[0])
    found = model_metrics(said, target) | of_target(said, target)
    return {name: found[name] for name in RATES}


def defended(
    cell: Cell, before: dict[str, float], trusted: PairBundle, pairs: pd.DataFrame
) -> dict[str, Any]:
    """What UBT finds and makes of the victim with this encoder: columns from ``found`` on."""
    p, train = cell.p, cell.tables["poisoned_train"]
    settings, params = (p.model, p.compute), p.overfit_similarity
    similar = detect.score_by_trusted(train, trusted, *settings)
    over = detect.overfit_victim(train, cell.bundle, similar, params, p.training, *settings, p.seed)
    ranks = detect.rank_pairs(train, over, similar, params, *settings, p.seed)
    suspects, record = detect.detect_overfit_similarity(
        train, cell.bundle, trusted, ranks, pairs, params, *settings
    )
    made, _ = forget_locally(cell.bundle, train, suspects, p.local_forgetting, *settings, p.seed)
    flagged = suspects.loc[suspects["flagged"], "key"]
    is_poisoned = train.set_index("example_id")["is_poisoned"]
    rates_of = {"before": before, "after": judged(made, cell)}
    return {
        "found": record["found"],
        "flagged": len(flagged),
        "precision": float(is_poisoned[flagged].mean()) if len(flagged) else np.nan,
        **{f"{name}_{when}": rates_of[when][name] for name in RATES for when in rates_of},
    }


def figure(cells: pd.DataFrame) -> go.Figure:
    """Attack success, clean accuracy and precision by what is owned: each cell, and the mean."""
    lost = 100 * (cells["clean_accuracy_before"] - cells["clean_accuracy_after"])
    shown = {
        "attack success after, %": 100 * cells["attack_success_rate_after"],
        "clean accuracy lost, points": lost,
        "flagged pairs that are poisoned, %": 100 * cells["precision"],
    }
    drawn = make_subplots(rows=1, cols=len(shown), subplot_titles=list(shown))
    order = [name for name in OWNED if name in set(cells["owned"])]
    named = cells[["attack", "poison_rate", "seed"]].astype(str)
    hover = named["attack"] + ", " + named["poison_rate"] + ", seed " + named["seed"]
    for column, values in enumerate(shown.values(), start=1):
        points = go.Scatter(
            **{"x": cells["owned"], "y": values, "mode": "markers", "text": hover},
            **{"name": "a victim", "marker": {"opacity": 0.4}, "showlegend": column == 1},
        )
        means = values.groupby(cells["owned"]).mean().reindex(order)
        line = go.Scatter(x=order, y=means, name="mean", showlegend=column == 1)
        drawn.add_trace(points, row=1, col=column)
        drawn.add_trace(line, row=1, col=column)
        drawn.update_xaxes(title="clean pairs owned", type="category", row=1, col=column)
    drawn.update_xaxes(categoryorder="array", categoryarray=order)
    return drawn.update_layout(title="UBT by the encoder that the defender owns")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("victims", nargs="*", metavar="VICTIM")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--to", type=Path, default=ROOT / "benchmarks/results/trusted_encoders")
    parser.add_argument("--owned", nargs="+", choices=OWNED, default=list(OWNED))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models = arguments.data_dir / "06_models"
    found = sorted(path.parents[1].name for path in models.glob("*/victim/provenance.json"))
    table = Table(arguments.to / "cells.csv", COLUMNS, WORDS)
    cells = [read_cell(arguments.data_dir, name) for name in arguments.victims or found]
    for seed in sorted({cell.p.seed for cell in cells}):
        of_seed = [cell for cell in cells if cell.p.seed == seed]
        before: dict[str, dict[str, float]] = {}
        for owned in arguments.owned:
            missing = [cell for cell in of_seed if not table.of(victim=cell.name, owned=owned)]
            if not missing:
                continue
            trusted, pairs = owned_encoder(missing[0], OWNED[owned])
            accuracy = judged(trusted, missing[0])["clean_accuracy"]
            for cell in missing:
                if cell.name not in before:
                    before[cell.name] = judged(cell.bundle, cell)
                poison = cell.p.poison
                start = {"victim": cell.name, "attack": poison.attack, "seed": seed}
                start |= {"poison_rate": poison.rate, "owned": owned, "pairs": len(pairs)}
                start |= {"trusted_accuracy": accuracy}
                table.add(start | defended(cell, before[cell.name], trusted, pairs))
                print(table.rows[-1], flush=True)
    drawn = figure(pd.DataFrame(table.rows))
    drawn.write_html(arguments.to / "trusted_encoders.html", include_plotlyjs="cdn")
    drawn.write_json(arguments.to / "trusted_encoders.json")


if __name__ == "__main__":
    main()
