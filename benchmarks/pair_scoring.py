"""What the detection of UBT costs on 10^4, 10^5 and 10^6 pairs: seconds and peak memory.

    python benchmarks/pair_scoring.py [--digits] [--data-dir DATA] [--threads N]

The pairs are training pairs of CIFAR-10 (under $BACKDOOR_DATA; or the packaged digits) with
template captions and a patch on 2 %, repeated, each with bytes of its own. Each size runs in a
process of its own, which reads the table from its file and goes through the nodes of the pipeline:
both scorings, the overfitting on the weak pairs, the ranks by neighbours and the choice of the
suspects. Both encoders are as they were drawn: what they know does not change what they cost. The
vectors of texts are dropped with each block of pairs, those of images are in a memory-mapped file.

``one_by_one`` is the plain way, of the first pairs alone: one pair at a time through the encoder in
float32, its similarity appended to a data frame.

Writes benchmarks/results/pair_scoring.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from backdoor_pipeline.datasets import sources
from backdoor_pipeline.datasets.whole import TableDataset
from backdoor_pipeline.modelling.device import resolve_device
from backdoor_pipeline.modelling.dual_encoders import dual_encoder
from backdoor_pipeline.modelling.matching import similarities
from backdoor_pipeline.modelling.pairs import read_pairs
from backdoor_pipeline.modelling.pixels import decode, measured_format
from backdoor_pipeline.parameters import Parameters
from backdoor_pipeline.pipelines.detect import nodes as detect
from backdoor_pipeline.pipelines.ingest.nodes import ingest
from backdoor_pipeline.pipelines.poison.nodes import poison_pairs
from own_process import measure_sizes
from potion_victims import ROOT, loader

SIZES = (10_000, 100_000, 1_000_000)
ONE_BY_ONE = 300  # pairs
SEEDS = {"trusted": 1, "victim": 2}


def parameters(arguments: argparse.Namespace) -> Parameters:
    changes: dict[str, Any] = {"modality": "pair", "ingest.dev_share": 0.05}
    changes |= {"poison.rate": 0.02, "poison.label_mode": "dirty"}
    if not arguments.digits:
        changes |= {"dataset": "cifar10", "ingest.max_rows": 20_000}
    return loader(**changes).typed_parameters


def make_table(pairs: pd.DataFrame, path: Path, n_pairs: int) -> None:
    """``n_pairs`` rows: ``pairs``, repeated, with ids from 0."""
    repeated = pairs.iloc[np.resize(np.arange(len(pairs)), n_pairs)]
    table(path).save(repeated.assign(example_id=np.arange(n_pairs)).reset_index(drop=True))


def table(path: Path) -> TableDataset:
    return TableDataset(filepath=str(path), schema="POISONED")


def measure(path: Path, p: Parameters) -> dict[str, float]:
    seconds: dict[str, float] = {}

    def timed(name: str, function: Any, *given: Any) -> Any:
        start = time.perf_counter()
        result = function(*given)
        seconds[name] = time.perf_counter() - start
        return result

    rows = timed("load", table(path).load)
    first = rows.head(1000)
    form = measured_format(decode(first["image"].tolist(), "pairs"))
    trusted, victim = (dual_encoder(p.model, form, seed) for seed in SEEDS.values())
    similarities(trusted, read_pairs(trusted, first, p.model.max_length), p.compute)  # warm
    params, settings = p.overfit_similarity, (p.model, p.compute)
    similar = timed("score", detect.score_by_trusted, rows, trusted, *settings)
    over = timed(
        *("overfit", detect.overfit_victim, rows, victim, similar, params, p.training),
        *(*settings, p.seed),
    )
    ranks = timed("rank", detect.rank_pairs, rows, over, similar, params, *settings, p.seed)
    timed(
        *("choose", detect.detect_overfit_similarity, rows, victim, trusted, ranks),
        *(rows.head(0), params, *settings),
    )
    n_plain = min(ONE_BY_ONE, len(rows))
    timed("one_by_one", one_by_one, rows.head(n_plain), trusted, p)
    per_thousand = seconds["score"] * 1000 / len(rows)
    plain = seconds.pop("one_by_one") * 1000 / n_plain
    return {
        "pairs": len(rows),
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "score_seconds_per_1000": per_thousand,
        "one_by_one_seconds_per_1000": plain,
        "one_by_one / score": plain / per_thousand,
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def one_by_one(rows: pd.DataFrame, bundle: Any, p: Parameters) -> pd.DataFrame:
    """The similarity of each pair, the plain way."""
    device = resolve_device(p.compute)
    form = bundle.image_format
    mean, std = (torch.tensor(values) for values in (form.mean, form.std))
    found = pd.DataFrame(
        {"example_id": pd.Series(dtype="int64"), "similarity": pd.Series(dtype="float64")}
    )
    with torch.no_grad():
        for row in rows.itertuples():
            values = torch.from_numpy(decode([row.image], "pairs")).float() / 255
            pixels = ((values - mean) / std).permute(0, 3, 1, 2).to(device)
            tokens = bundle.tokenizer(
                row.caption, truncation=True, max_length=p.model.max_length, return_tensors="pt"
            ).to(device)
            texts = {name: tokens[name] for name in ("input_ids", "attention_mask")}
            f = bundle.model.get_image_features(pixels).pooler_output
            g = bundle.model.get_text_features(**texts).pooler_output
            similar = torch.cosine_similarity(f, g).item()
            one = pd.DataFrame({"example_id": [row.example_id], "similarity": [similar]})
            found = pd.concat([found, one], ignore_index=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", action="store_true", help="the packaged digits")
    parser.add_argument("--data-dir", help="root of the known sets")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/pair_scoring.csv")
    arguments = parser.parse_args()
    if arguments.data_dir:
        os.environ["BACKDOOR_DATA"] = arguments.data_dir
    torch.set_num_threads(arguments.threads)
    p = parameters(arguments)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, p)))
        return
    made = ingest(sources.read(p.source), p.ingest, p.seed)
    pairs = poison_pairs(made["examples"], None, made["integrity"], p.poison, p.ingest, p.seed)
    make = partial(make_table, pairs["poisoned_train"])
    options = ["--threads", str(arguments.threads), *(["--digits"] if arguments.digits else [])]
    measure_sizes(__file__, arguments.sizes, make, options, arguments.out)


if __name__ == "__main__":
    main()
