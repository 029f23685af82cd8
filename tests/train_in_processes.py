"""Small trainings for any number of processes, and what identifies their results.

As a script, ``train_in_processes.py MODEL_FOLDER OUTPUT_FOLDER``, it trains in this process, on
texts and on images, and writes the results to ``OUTPUT_FOLDER/RANK.json``; ``in_two_processes``
starts two of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from backdoor_pipeline.modelling.bundle import Bundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.folders import ModelParams
from backdoor_pipeline.modelling.image_models import new_image_classifier
from backdoor_pipeline.modelling.loading import load_pretrained, new_classifier
from backdoor_pipeline.modelling.pixels import decode, measured_format
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.modelling.training import (
    History,
    Labelled,
    OptimisationParams,
    fit,
    labelled,
)
from tiny import MAX_LENGTH, ROOT, make_corpus, make_images

N_BATCHES = 75  # of texts, in each of two epochs
COMPUTE = ComputeParams(device="cpu", precision="fp32")


def arguments(folder: Path) -> tuple[Any, ...]:
    """What ``fit`` is called with, but for ``what``: texts and the model of ``folder``."""
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
    return bundle, train, dev, params, COMPUTE, 0


def image_arguments() -> tuple[Any, ...]:
    """The same: images and a network with batch normalisation."""
    images = make_images(n_train=96, n_dev=40, n_test=0)
    form = measured_format(decode(images["image"].tolist(), "images"))
    bundle = new_image_classifier("resnet9", 4, form, 0.0625, 0)
    train, dev = (
        labelled(images[images["split"] == split], bundle, 0) for split in ("train", "dev")
    )
    params = OptimisationParams(
        epochs=2,
        learning_rate=0.025,
        batch_size=8,
        weight_decay=0.0,
        warmup_share=0.0,
        max_gradient_norm=None,
        optimiser="sgd",
        momentum=0.9,
    )
    return bundle, train, dev, params, COMPUTE, 0


def result(bundle: Bundle, history: History) -> dict[str, Any]:
    """The history and a digest of all weights and statistics."""
    weights = hashlib.sha256()
    for name, value in sorted(bundle.model.state_dict().items()):
        weights.update(name.encode() + value.numpy().tobytes())
    return {"weights": weights.hexdigest(), "history": history}


def in_two_processes(folder: Path, output: Path) -> dict[str, list[dict[str, Any]]]:
    """The results of both processes under ``torchrun``, of ``text`` and of ``image``."""
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
    ranks = [json.loads((output / f"{rank}.json").read_text()) for rank in range(2)]
    return {name: [rank[name] for rank in ranks] for name in ranks[0]}


if __name__ == "__main__":
    model_folder, output_folder = map(Path, sys.argv[1:])
    tasks = {"text": arguments(model_folder), "image": image_arguments()}
    found = {name: result(task[0], fit(*task)) for name, task in tasks.items()}
    (output_folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
