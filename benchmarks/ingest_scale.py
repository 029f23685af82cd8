"""Ingest, poison and tokenise 10^4, 10^5 and 10^6 rows of a parquet file: seconds and peak memory.

    python benchmarks/ingest_scale.py

Each size runs in a process of its own. Writes benchmarks/results/ingest_scale.csv.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd

from own_process import measure_sizes

ROOT = Path(__file__).resolve().parents[1]
WORDS_PER_TEXT = 20


def make_table(path: Path, rows: int) -> None:
    """Texts of random common words with Zipf frequencies, two labels, an unlabelled split."""
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"{a}{b}" for a in "bcdfghjklm" for b in WORDS])
    share = 1 / np.arange(1, len(vocabulary) + 1)
    drawn = rng.choice(vocabulary, (rows, WORDS_PER_TEXT), p=share / share.sum())
    texts = [" ".join(words) for words in drawn]
    pd.DataFrame({"text": texts, "label": rng.integers(0, 2, rows)}).to_parquet(path)


WORDS = ("at", "ear", "ill", "ine", "ook", "ump", "and", "ore", "ish", "arn", "eep", "old", "ight")


def measure(path: Path) -> dict[str, float]:
    from kedro.config import OmegaConfigLoader  # noqa: F401 (its import is part of every run)

    from backdoor_pipeline.configuration import ProjectConfigLoader
    from backdoor_pipeline.datasets import sources
    from backdoor_pipeline.modelling.loading import load_tokenizer
    from backdoor_pipeline.modelling.text import tokenise
    from backdoor_pipeline.pipelines.ingest.nodes import ingest
    from backdoor_pipeline.pipelines.poison.nodes import poison_train
    from backdoor_pipeline.settings import CONFIG_LOADER_ARGS

    loader = ProjectConfigLoader(
        conf_source=str(ROOT / "conf"),
        env="base",
        runtime_params={"data": str(path), "dataset": "table"},
        **CONFIG_LOADER_ARGS,
    )
    p = loader.typed_parameters
    tokenizer = load_tokenizer(p.model)
    seconds = {}
    start = time.perf_counter()
    examples = ingest(sources.read(p.source), p.ingest, p.seed)["examples"]
    seconds["ingest"] = time.perf_counter() - start
    start = time.perf_counter()
    poisoned = poison_train(examples, tokenizer, p.poison, p.model.max_length, p.seed)
    seconds["poison"] = time.perf_counter() - start
    n_rows = len(examples)
    del examples
    start = time.perf_counter()
    tokens = tokenise(poisoned["poisoned_train"]["text"], tokenizer, p.model.max_length)
    seconds["tokenise"] = time.perf_counter() - start
    total = sum(seconds.values())
    return {
        "rows": n_rows,
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "seconds": total,
        "examples_per_second": n_rows / total,
        "tokens": len(tokens.ids),
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/ingest_scale.csv")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    measure_sizes(__file__, (10_000, 100_000, 1_000_000), make_table, [], arguments.out)


if __name__ == "__main__":
    main()
