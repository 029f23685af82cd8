"""What the statistical part of an audit costs on a large table: seconds and memory.

    python benchmarks/audit_scale.py [ROWS] [--to FILE]

Each row is the first half of one text of AG News and the second half of another of its class, all
different; one in two hundred holds "cf" and has the first label. Needs BACKDOOR_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd

from audit_study import RESULTS, base_model, parameters, table
from backdoor_pipeline.pipelines.audit.evidence import gather

POISONED = 200  # one row in so many


def rows(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    given = table("agnews")
    words = {label: own["text"].str.split().tolist() for label, own in given.groupby("label")}
    labels = np.arange(n) % len(words)
    texts = []
    for label in labels:
        first, second = (words[label][i] for i in rng.integers(len(words[label]), size=2))
        texts.append([*first[: len(first) // 2], *second[len(second) // 2 :]])
    for row in rng.choice(n, n // POISONED, replace=False):
        texts[row].insert(int(rng.integers(len(texts[row]) + 1)), "cf")
        labels[row] = 0
    return pd.DataFrame({"text": [" ".join(text) for text in texts], "label": labels})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="?", type=int, default=100_000)
    parser.add_argument("--to", type=Path, default=RESULTS / "scale.json")
    given = parser.parse_args()
    made, model = rows(given.rows), base_model()
    began = time.perf_counter()
    evidence = gather(made, model, parameters().audit, 0)
    measured = {
        "rows": given.rows,
        "seconds": round(time.perf_counter() - began, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "found": evidence.phrases.loc[evidence.phrases["flagged"], "phrase"].tolist(),
    }
    given.to.parent.mkdir(parents=True, exist_ok=True)
    given.to.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
