"""Nodes of the train stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.bundle import ModelBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.distributed import fit_on_workers
from backdoor_pipeline.modelling.loading import ModelParams, new_classifier
from backdoor_pipeline.modelling.text import Tokens
from backdoor_pipeline.modelling.training import (
    History,
    OptimisationParams,
    epoch_batches,
    fit,
    labelled,
)
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveInt, Share
from backdoor_pipeline.pipelines.train import defended
from backdoor_pipeline.pipelines.train.defended import DefendedTrainingParams
from backdoor_pipeline.pipelines.train.observation import ObservationParams, Observer


class TrainingParams(OptimisationParams):
    """How victim and reference are trained."""

    dropout: Share | None
    num_workers: PositiveInt


def train_victim(
    poisoned_train: pd.DataFrame,
    examples: pd.DataFrame,
    base_model: ModelBundle,
    params: TrainingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[ModelBundle, History]:
    """The classifier trained on the poisoned rows, and its history.

    The epoch is chosen by accuracy on the clean dev rows, never by the attack's success.
    """
    return _train(poisoned_train, examples, base_model, params, model, compute, seed, "victim")


def train_reference(
    examples: pd.DataFrame,
    base_model: ModelBundle,
    params: TrainingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[ModelBundle, History]:
    """The same classifier trained without poison: it measures the floor of the attack success."""
    train = examples[examples["split"] == "train"]
    return _train(train, examples, base_model, params, model, compute, seed, "reference")


def train_observed(
    poisoned_train: pd.DataFrame,
    examples: pd.DataFrame,
    triggered_dev: pd.DataFrame,
    base_model: ModelBundle,
    params: TrainingParams,
    observation: ObservationParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> pd.DataFrame:
    """``observations``: what the victim says of clean and of triggered dev rows while it learns.

    It is trained as ``train_victim`` trains it, by one process, without a choice of the epoch.

    Raises:
        InputError: It would never be looked at after the beginning.
    """
    bundle = new_classifier(base_model, _n_classes(examples), seed, params.dropout)
    observer = Observer(
        bundle, _dev(examples), triggered_dev, observation, model.max_length, compute, seed
    )
    data = labelled(poisoned_train, bundle, model.max_length)
    n_steps = sum(map(len, epoch_batches(data.inputs, params, seed)))
    if observation.every > n_steps:
        raise InputError(
            f"observation.every is {observation.every}, but the training has {n_steps} steps; "
            "lower it"
        )
    fit(bundle, data, None, params, compute, seed, "observed", on_step=observer)
    return observer.table()


def plan_defended_training(
    examples: pd.DataFrame,
    base_model: ModelBundle,
    params: DefendedTrainingParams,
    model: ModelParams,
    seed: int,
    **methods: ParameterGroup,
) -> dict[str, int]:
    """The weights that ``methods`` would train: a model that they do not fit is told at once."""
    n_classes = _n_classes(examples)
    return defended.plan(base_model, params, methods, n_classes, model.max_length, seed)


def train_defended(
    poisoned_train: pd.DataFrame,
    examples: pd.DataFrame,
    base_model: ModelBundle,
    params: DefendedTrainingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
    clean_rows: pd.DataFrame | None = None,
    **methods: ParameterGroup,
) -> tuple[ModelBundle, History, dict[str, Any]]:
    """The classifier that ``methods`` make of the poisoned rows, its history, and what was used.

    The ``clean_rows`` that some methods learn from choose no epoch.
    """
    dev = _dev(examples)
    if clean_rows is not None:
        taken = clean_rows.loc[clean_rows["source"] == "dev", "example_id"]
        dev = dev[~dev["example_id"].isin(taken)]
    return defended.train(
        poisoned_train[["example_id", "text", "label"]],
        dev,
        base_model,
        params,
        methods,
        _n_classes(examples),
        model.max_length,
        compute,
        seed,
        clean_rows,
    )


def _train(
    train: pd.DataFrame,
    examples: pd.DataFrame,
    base_model: ModelBundle,
    params: TrainingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
    what: str,
) -> tuple[ModelBundle, History]:
    bundle = new_classifier(base_model, _n_classes(examples), seed, params.dropout)
    data = labelled(train, bundle, model.max_length)
    special, read = base_model.tokenizer.all_special_ids, data.inputs
    if isinstance(read, Tokens) and len(train) and np.isin(read.ids, special).all():
        raise InputError(
            f"model.name '{model.name}': its tokenizer knows nothing of these texts (the first "
            f"is {train['text'].iloc[0][:40]!r}); choose a model for their language"
        )
    dev = labelled(_dev(examples), bundle, model.max_length)
    task = (bundle, data, dev, params, compute, seed, what)
    if params.num_workers == 1:
        return bundle, fit(*task)
    return bundle, fit_on_workers(*task, params.num_workers)


def _n_classes(examples: pd.DataFrame) -> int:
    return int(examples["label"].max()) + 1


def _dev(examples: pd.DataFrame) -> pd.DataFrame:
    return examples[examples["split"] == "dev"]
