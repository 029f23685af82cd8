"""Nodes of the train stage."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.bundle import B, ImageBundle, ModelBundle, PairBundle
from backdoor_pipeline.modelling.contrastive import fit_pairs, pairs_to_train
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.distributed import fit_on_workers
from backdoor_pipeline.modelling.dual_encoders import dual_encoder
from backdoor_pipeline.modelling.image_models import new_image_classifier
from backdoor_pipeline.modelling.inputs import where_of
from backdoor_pipeline.modelling.loading import ModelParams, new_classifier
from backdoor_pipeline.modelling.pairs import Pairs
from backdoor_pipeline.modelling.pixels import Pixels, decode, measured_format
from backdoor_pipeline.modelling.training import (
    History,
    TrainingParams,
    epoch_batches,
    fit,
    labelled,
)
from backdoor_pipeline.parameter_group import ParameterGroup
from backdoor_pipeline.pipelines.train import defended, pair_isolation, roclip
from backdoor_pipeline.pipelines.train.defended import DefendedTrainingParams
from backdoor_pipeline.pipelines.train.observation import ObservationParams, Observer
from backdoor_pipeline.pipelines.train.pair_isolation import PairIsolationParams
from backdoor_pipeline.pipelines.train.roclip import RoclipParams

logger = logging.getLogger(__name__)


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
    bundle = new_classifier(base_model, _n_classes(examples), seed, params.dropout)
    return _train(bundle, poisoned_train, examples, params, model, compute, seed, "victim")


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
    bundle = new_classifier(base_model, _n_classes(examples), seed, params.dropout)
    return _train(bundle, train, examples, params, model, compute, seed, "reference")


def train_image_victim(
    poisoned_train: pd.DataFrame,
    examples: pd.DataFrame,
    params: TrainingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[ImageBundle, History]:
    """As ``train_victim``, of images."""
    bundle = fresh_image_classifier(poisoned_train, examples, model, seed)
    return _train(bundle, poisoned_train, examples, params, model, compute, seed, "victim")


def train_image_reference(
    examples: pd.DataFrame,
    params: TrainingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[ImageBundle, History]:
    """As ``train_reference``, of images."""
    train = examples[examples["split"] == "train"]
    bundle = fresh_image_classifier(train, examples, model, seed)
    return _train(bundle, train, examples, params, model, compute, seed, "reference")


def fresh_image_classifier(
    train: pd.DataFrame, examples: pd.DataFrame, model: ModelParams, seed: int
) -> ImageBundle:
    """A classifier that has not seen ``train`` yet; a network of ours is normalised by its pixels.

    Raises:
        InputError: The model cannot be had, or cannot read such images.
    """
    form = measured_format(decode(train["image"].tolist(), where_of(train)))
    return new_image_classifier(
        model.name, _n_classes(examples), form, model.width, seed, model.revision
    )


def train_pair_victim(
    poisoned_train: pd.DataFrame,
    params: TrainingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[PairBundle, History]:
    """The dual encoder trained on the poisoned pairs, and its history."""
    return _train_pairs(poisoned_train, params, model, compute, seed, "victim")


def train_pair_reference(
    examples: pd.DataFrame,
    params: TrainingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[PairBundle, History]:
    """The same dual encoder trained without poison: it measures the floor of the attack success."""
    train = examples[examples["split"] == "train"]
    return _train_pairs(train, params, model, compute, seed, "reference")


def train_pairs_by_roclip(
    poisoned_train: pd.DataFrame,
    roclip_params: RoclipParams,
    params: TrainingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[PairBundle, History, dict[str, Any]]:
    """The dual encoder that RoCLIP makes of the poisoned pairs, its history, and what was used."""
    bundle, pairs = _pairs_to_train(poisoned_train, params, model, compute, seed)
    history = roclip.train(bundle, pairs, roclip_params, params, compute, seed)
    return bundle, history, {"dev_rows": 0}


def train_pairs_by_isolation(
    poisoned_train: pd.DataFrame,
    isolation_params: PairIsolationParams,
    params: TrainingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[PairBundle, History, dict[str, Any]]:
    """As ``train_pairs_by_roclip``, by anti-backdoor learning; with the isolated pairs."""
    bundle, pairs = _pairs_to_train(poisoned_train, params, model, compute, seed)
    settings = (isolation_params, params, compute, seed)
    history, rows = pair_isolation.train(bundle, pairs, *settings)
    isolated = poisoned_train["example_id"].to_numpy()[rows].tolist()
    return bundle, history, {"dev_rows": 0, "isolated": isolated}


def _train_pairs(
    train: pd.DataFrame,
    params: TrainingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
    what: str,
) -> tuple[PairBundle, History]:
    bundle, pairs = _pairs_to_train(train, params, model, compute, seed)
    return bundle, fit_pairs(bundle, pairs, params, compute, seed, what)


def _pairs_to_train(
    train: pd.DataFrame,
    params: TrainingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[PairBundle, Pairs]:
    """A dual encoder that has not seen ``train`` yet, and how it reads that."""
    form = measured_format(decode(train["image"].tolist(), where_of(train)))
    bundle = dual_encoder(model, form, seed)
    reading = (model.max_length, params.text_tower, params.augmentation)
    pairs = pairs_to_train(bundle, train, *reading, compute)
    n_long = int((pairs.texts.lengths[pairs.captions] >= model.max_length).sum())
    if n_long:
        logger.warning(
            "%s of %s captions have %d tokens or more, of which no more are read; raise "
            "model.max_length, if the text tower takes more",
            *(f"{n_long:,}", f"{len(train):,}", model.max_length),
        )
    return bundle, pairs


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
    bundle: B,
    train: pd.DataFrame,
    examples: pd.DataFrame,
    params: TrainingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
    what: str,
) -> tuple[B, History]:
    data = labelled(train, bundle, model.max_length)
    if isinstance(data.inputs, Pixels):
        if params.augmentation is not None:
            data = data._replace(inputs=data.inputs.augmented(params.augmentation))
    elif len(train) and _knows_nothing(bundle, data.inputs):
        raise InputError(
            f"model.name '{model.name}': its tokenizer knows nothing of these texts (the first "
            f"is {train['text'].iloc[0][:40]!r}); choose a model for their language"
        )
    dev = labelled(_dev(examples), bundle, model.max_length)
    task = (bundle, data, dev, params, compute, seed, what)
    if params.num_workers == 1:
        return bundle, fit(*task)
    return bundle, fit_on_workers(*task, params.num_workers)


def _knows_nothing(bundle: Any, tokens: Any) -> bool:
    """Whether all tokens are special ones, such as the unknown one."""
    return bool(np.isin(tokens.ids, bundle.tokenizer.all_special_ids).all())


def _n_classes(examples: pd.DataFrame) -> int:
    return int(examples["label"].max()) + 1


def _dev(examples: pd.DataFrame) -> pd.DataFrame:
    return examples[examples["split"] == "dev"]
