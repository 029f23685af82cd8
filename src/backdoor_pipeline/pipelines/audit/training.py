"""Classifiers trained for an audit: one on the table as it is, one on what is left of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from backdoor_pipeline.modelling.bundle import ModelBundle, NoModel
from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.training import fit, labelled
from backdoor_pipeline.pipelines.audit.budget import OutOfTimeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.folders import ModelParams
    from backdoor_pipeline.modelling.training import TrainingParams
    from backdoor_pipeline.pipelines.audit.budget import Clock

NO_TIME = "the time was over before a training could begin"
DEV_ROWS = 2_000  # that choose the epoch, at most: they are not counted among the steps of a limit


def train(
    examples: pd.DataFrame,
    label_names: Sequence[str],
    base_model: ModelBundle,
    params: TrainingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
    clock: Clock,
    share: float,
    least_steps: int,
    what: str,
) -> tuple[ModelBundle | NoModel, dict[str, Any]]:
    """A classifier of the training split, and what became of its training.

    Args:
        examples: With ``split``, ``text`` and ``label``; the epoch is chosen by the dev split.
        label_names: Of all classes, those without rows included.
        base_model: The encoder that it starts from.
        params: How it is trained.
        model: ``max_length`` of the texts.
        compute: Device and precision.
        seed: Of the head and of the order of the batches.
        clock: The limit of time.
        share: Of the time, after which the training ends.
        least_steps: Of the training; as many epochs more are made of few rows.
        what: It is called in the progress bar.

    Returns:
        The model, or why there is none; ``status`` (trained, stopped or none), ``rows`` and
        ``epochs``.
    """
    rows = examples[examples["split"] == "train"]
    if clock.is_over(share):
        return NoModel(NO_TIME), {"status": "none", "rows": 0, "epochs": 0}
    bundle = new_classifier(base_model, len(label_names), seed, params.dropout)
    bundle.model.config.id2label = dict(enumerate(label_names))
    bundle.model.config.label2id = {name: i for i, name in enumerate(label_names)}
    data = labelled(rows, bundle, model.max_length)
    chosen = examples[examples["split"] == "dev"]
    chosen = chosen.sample(min(DEV_ROWS, len(chosen)), random_state=seed)
    dev = labelled(chosen, bundle, model.max_length)
    in_an_epoch = max(math.ceil(len(rows) / params.batch_size), 1)
    epochs = max(params.epochs, math.ceil(least_steps / in_an_epoch))
    params = params.model_copy(update={"epochs": epochs})
    status = "trained"
    try:
        fit(bundle, data, dev, params, compute, seed, what, on_step=clock.stop_after(share))
    except OutOfTimeError:
        bundle.model.eval()
        status = "stopped"
    return bundle, {"status": status, "rows": len(rows), "epochs": epochs}


def accuracy_hits(
    rows: pd.DataFrame,
    bundle: ModelBundle,
    max_length: int,
    compute: ComputeParams,
    before_batch: Callable[[], object] | None = None,
) -> np.ndarray:
    """Which of ``rows`` the model gives their label; bool, shape (n_rows,).

    ``before_batch``: see ``predict``.
    """
    data = labelled(rows, bundle, max_length)
    probabilities = predict(bundle, data.inputs, compute, before_batch=before_batch)
    return np.asarray(probabilities.argmax(axis=1) == data.labels)
