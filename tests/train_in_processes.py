"""One small training for any number of processes, and what identifies its result.

As a script, ``train_in_processes.py MODEL_FOLDER OUTPUT_FOLDER``, it trains in this process and
writes the result to ``OUTPUT_FOLDER/RANK.json``; ``in_two_processes`` starts two of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from backdoor_pipeline.modelling.bundle import ModelBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.folders import ModelParams
from backdoor_pipeline.modelling.loading import load_pretrained, new_classifier
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.modelling.training import History, Labelled, OptimisationParams, fit
from tiny import MAX_LENGTH, ROOT, make_corpus

N_BATCHES = 75  # in each of two epochs


def arguments(folder: Path) -> tuple[Any, ...]:
    """What ``fit`` is called with, but for ``what``."""
    model = ModelParams(name=str(folder), max_length=MAX_LENGTH)
    bundle = new_classifier(load_pretrained(model), 2, seed=0)
    corpus = make_corpus(n_train=600, n_dev=40, n_test=0)
    train, dev = (
        Labelled(tokenise(rows["text"], bundle.tokenizer, MAX_LENGTH), rows["label"].to_numpy())
        for rows in (corpus[corpus["split"] == split] for split in ("train", "dev"))
    )
    params = OptimisationParams(
        epochs=2,
        learning_rate=2e-3,
        batch_size=8,
        weight_decay=0.01,
        warmup_share=0.1,
        max_gradient_norm=1.0,
    )
    return bundle, train, dev, params, ComputeParams(device="cpu", precision="fp32"), 0


def result(bundle: ModelBundle, history: History) -> dict[str, Any]:
    """The history and a digest of all weights."""
    weights = hashlib.sha256()
    for name, value in sorted(bundle.model.state_dict().items()):
        weights.update(name.encode() + value.numpy().tobytes())
    return {"weights": weights.hexdigest(), "history": history}


def in_two_processes(folder: Path, output: Path) -> list[dict[str, Any]]:
    """The results of both processes of a training under ``torchrun``."""
    paths = [str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node=2", __file__, str(folder), str(output)),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    return [json.loads((output / f"{rank}.json").read_text()) for rank in range(2)]


if __name__ == "__main__":
    model_folder, output_folder = map(Path, sys.argv[1:])
    task = arguments(model_folder)
    found = result(task[0], fit(*task))
    (output_folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
