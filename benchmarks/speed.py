"""How fast the pipeline is: ratios against transformers' Trainer, measured in one run.

    python benchmarks/speed.py [--rows N] [--threads N] [--out benchmarks/results/speed.json]

Needs SST-2 under $BACKDOOR_DATA and an otherwise idle machine. On a CUDA device it also measures a
BERT-base-sized model against the device's bf16 peak.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backdoor_pipeline.datasets import sources
from backdoor_pipeline.datasets.whole import write_json
from backdoor_pipeline.modelling.bundle import ModelBundle
from backdoor_pipeline.modelling.device import ComputeParams, has_fast_bf16, resolve_device
from backdoor_pipeline.modelling.folders import ModelParams
from backdoor_pipeline.modelling.loading import load_pretrained, new_classifier
from backdoor_pipeline.modelling.text import Tokens, tokenise
from backdoor_pipeline.modelling.training import Labelled, OptimisationParams, fit
from backdoor_pipeline.pipelines.detect.token_drift import drift, furthest
from timed_kedro import CATALOG_SECONDS

ROOT = Path(__file__).resolve().parents[1]
TIMED_KEDRO = str(ROOT / "benchmarks" / "timed_kedro.py")
BATCH_SIZE = 32
MAX_LENGTH = 128
BF16_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L4": 121e12}  # FLOP/s, dense


def optimisation(batch_size: int = BATCH_SIZE) -> OptimisationParams:
    return OptimisationParams(
        epochs=1,
        learning_rate=1e-4,
        batch_size=batch_size,
        weight_decay=0.01,
        warmup_share=0.1,
        max_gradient_norm=1.0,
    )


def sst2(rows: int | None) -> tuple[list[str], np.ndarray]:
    source = sources.read(
        sources.SourceParams(
            dataset="sst2",
            folder=os.environ.get("BACKDOOR_DATA", "../shared/data"),
            text="text",
            label="label",
        )
    )
    train = source.tables["train"].head(rows) if rows else source.tables["train"]
    return train["text"].tolist(), train["label"].to_numpy(dtype=np.int64)


def ours(pretrained: ModelBundle, texts: list[str], labels: np.ndarray, precision: str) -> float:
    """Seconds for one epoch of our loop, tokenisation counted."""
    bundle = new_classifier(pretrained, int(labels.max()) + 1, seed=0)
    compute = ComputeParams(device="auto", precision=precision)
    start = time.perf_counter()
    tokens = tokenise(texts, bundle.tokenizer, MAX_LENGTH)
    fit(bundle, Labelled(tokens, labels), None, optimisation(), compute, seed=0)
    return time.perf_counter() - start


def trainer(pretrained: ModelBundle, texts: list[str], labels: np.ndarray, bf16: bool) -> float:
    """Seconds for one epoch of transformers' Trainer with its defaults, tokenisation counted."""
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    bundle = new_classifier(pretrained, int(labels.max()) + 1, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH_SIZE,
            num_train_epochs=1,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        start = time.perf_counter()
        encoded = bundle.tokenizer(texts, truncation=True, max_length=MAX_LENGTH)
        rows = [
            {**{key: encoded[key][i] for key in encoded}, "labels": int(labels[i])}
            for i in range(len(texts))
        ]
        Trainer(
            model=bundle.model.train(),
            args=arguments,
            train_dataset=rows,
            data_collator=DataCollatorWithPadding(bundle.tokenizer),
        ).train()
        return time.perf_counter() - start


def score_vocabulary(pretrained: ModelBundle) -> float:
    """Seconds to score and rank the whole vocabulary (median of 20)."""
    before = pretrained.model.get_input_embeddings().weight.detach().cpu().numpy()
    after = before + np.random.default_rng(0).normal(0, 1e-4, before.shape).astype(np.float32)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        furthest(drift(before, after), 15, {0, 100, 101, 102, 103})
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def recipe(name: str, rows: int | None, attack: str = "badnets") -> dict[str, float]:
    """Wall seconds of a real `kedro run` of a recipe on SST-2, in parts.

    ``recipe_seconds`` is from examples to metrics without the reference model. Outside the nodes'
    own functions lie ``catalog_seconds``, reading and writing tables and models with the imports
    of torch and transformers that this needs, and the rest: Kedro and MLflow themselves.
    """
    with tempfile.TemporaryDirectory() as folder:
        parameters = f"dataset=sst2,attack={attack},data_dir={folder}/data"
        if rows:
            parameters += f",ingest.max_rows={rows}"
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, TIMED_KEDRO, "run", "--pipelines", name, "--params", parameters],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        wall = time.perf_counter() - start
        costs = {
            path.stem: json.loads(path.read_text())
            for path in Path(folder).glob("data/.costs/*/*.json")
        }
        said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
        metrics = json.loads(Path(said["metrics"]).read_text())
    seconds = {name: cost["wall_seconds"] for name, cost in costs.items()}
    catalog_seconds = float(said[CATALOG_SECONDS])
    apart = ("reference", "ingest", "report", "figures", "card")
    return {
        "wall_seconds": wall,
        "node_seconds": sum(seconds.values()),
        "recipe_seconds": sum(s for n, s in seconds.items() if not any(a in n for a in apart)),
        "catalog_seconds": catalog_seconds,
        "kedro_and_mlflow_share": 1 - (sum(seconds.values()) + catalog_seconds) / wall,
        "outside_nodes_share": 1 - sum(seconds.values()) / wall,
        "peak_memory_gib": max(c["peak_memory_bytes"] for c in costs.values()) / 2**30,
        "clean_accuracy": metrics["purified"]["clean_accuracy"],
        "attack_success_rate": metrics["purified"]["attack_success_rate"],
    }


def bert_base_on_gpu(tokenizer: Any) -> dict[str, Any]:
    """Speed of our loop on a BERT-base-sized model (random weights), and its share of the peak.

    Floating-point operations a token: 6 for each parameter of the encoder, and 12 x layers x
    length x hidden for the attention, forward and backward.
    """
    from transformers import BertConfig, BertForSequenceClassification

    device_name = torch.cuda.get_device_name()
    peak = next((value for key, value in BF16_PEAKS.items() if key in device_name), None)
    config = BertConfig(num_labels=2, vocab_size=len(tokenizer))
    model = BertForSequenceClassification(config)
    encoder_parameters = sum(p.numel() for p in model.bert.encoder.parameters())
    batch, length, steps = 256, 128, 40
    rng = np.random.default_rng(0)

    def data(rows: int) -> Labelled:
        ids = rng.integers(1000, 30000, rows * length).astype(np.int32)
        tokens = Tokens(ids, np.arange(0, rows * length + 1, length))
        return Labelled(tokens, rng.integers(0, 2, rows))

    bundle = ModelBundle(model, tokenizer)
    compute = ComputeParams(device="cuda", precision="bf16")
    fit(bundle, data(5 * batch), None, optimisation(batch), compute, seed=0)
    timed = data(steps * batch)
    torch.cuda.synchronize()
    start = time.perf_counter()
    fit(bundle, timed, None, optimisation(batch), compute, seed=0)
    torch.cuda.synchronize()
    rate = steps * batch / (time.perf_counter() - start)
    attention = 12 * config.num_hidden_layers * length * config.hidden_size
    flops = rate * length * (6 * encoder_parameters + attention)
    return {
        "device": device_name,
        "examples_per_second": rate,
        "bf16_share_of_peak": flops / peak if peak else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, help="SST-2 training rows (default: all 6,920)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/speed.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    device = resolve_device(ComputeParams(device="auto", precision="auto"))
    texts, labels = sst2(arguments.rows)
    pretrained = load_pretrained(ModelParams(name="minilm", max_length=MAX_LENGTH))
    ours(pretrained, texts[:320], labels[:320], "auto")  # warm-up: imports, kernels, page cache
    load = os.getloadavg()[0]
    seconds = {
        "ours": ours(pretrained, texts, labels, "auto"),
        "trainer_bf16": trainer(pretrained, texts, labels, bf16=True),
        "trainer_fp32": trainer(pretrained, texts, labels, bf16=False),
        "ours_fp32": ours(pretrained, texts, labels, "fp32"),
    }
    btu = recipe("btu", arguments.rows)
    best = min(seconds["trainer_bf16"], seconds["trainer_fp32"])
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {arguments.threads} threads",
        "device": str(device),
        "fast_bf16": has_fast_bf16(device),
        "torch": torch.__version__,
        "load_average_before": load,
        "rows": len(texts),
        "examples_per_second": {name: len(texts) / s for name, s in seconds.items()},
        "ours_to_best_trainer": best / seconds["ours"],
        "recipe_btu": btu,
        "recipe_btu_to_fp32_trainer_epoch": btu["recipe_seconds"] / seconds["trainer_fp32"],
        "with_all_reading_and_writing": (btu["recipe_seconds"] + btu["catalog_seconds"])
        / seconds["trainer_fp32"],
        "score_vocabulary_seconds": score_vocabulary(pretrained),
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    if torch.cuda.is_available():
        result["bert_base"] = bert_base_on_gpu(pretrained.tokenizer)
    write_json(arguments.out, result)
    print(arguments.out.read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
