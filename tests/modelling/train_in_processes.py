"""Trains a tiny classifier in this process and writes a digest of its weights.

Started by ``test_training.py`` once in each of several processes:
``python train_in_processes.py MODEL_FOLDER OUTPUT_FOLDER``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import torch

from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.loading import ModelParams, load_pretrained, new_classifier
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.modelling.training import Labelled, OptimisationParams, fit
from tiny import make_corpus

torch.set_num_threads(1)
folder, output = sys.argv[1:]
compute = ComputeParams(device="cpu", precision="fp32")
bundle = new_classifier(load_pretrained(ModelParams(name=folder, max_length=32)), 2, seed=0)
corpus = make_corpus(n_train=90, n_dev=20, n_test=0)
train, dev = (
    Labelled(tokenise(rows["text"], bundle.tokenizer, 32), rows["label"].to_numpy())
    for _, rows in sorted(corpus.groupby("split"), reverse=True)
)
optimisation = OptimisationParams(
    epochs=2,
    learning_rate=1e-3,
    batch_size=16,
    weight_decay=0.01,
    warmup_share=0.1,
    max_gradient_norm=1.0,
)
history = fit(bundle, train, dev, optimisation, compute, seed=0)
weights = hashlib.sha256()
for name, value in sorted(bundle.model.state_dict().items()):
    weights.update(name.encode() + value.numpy().tobytes())
result = {"weights": weights.hexdigest(), "history": history}
rank = os.environ.get("RANK", "0")
Path(output, f"{rank}.json").write_text(json.dumps(result))
