"""Nodes of the unlearn stage. An unlearner sees contents and labels, never the ground truth.

Each returns the classifier and a record of what it did, in numbers; ``dev_rows`` among them counts
the dev rows that it used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from backdoor_pipeline.modelling.bundle import B, ImageBundle, ModelBundle, PairBundle
from backdoor_pipeline.modelling.contrastive import HasTextTower
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.dual_encoders import dual_encoder
from backdoor_pipeline.modelling.embeddings import word_vectors
from backdoor_pipeline.modelling.image_models import new_image_classifier
from backdoor_pipeline.modelling.inputs import where_of
from backdoor_pipeline.modelling.loading import ModelParams, new_classifier
from backdoor_pipeline.modelling.pairs import read_pairs
from backdoor_pipeline.modelling.pixels import decode, measured_format
from backdoor_pipeline.pipelines.unlearn import (
    clean_contrast,
    dampening,
    distillation,
    fine_tune,
    local_forgetting,
    neutralisation,
    recalibration,
    retraining,
    token_replacement,
    trigger_search,
    word_forgetting,
)
from backdoor_pipeline.pipelines.unlearn.clean_contrast import CleanContrastParams
from backdoor_pipeline.pipelines.unlearn.dampening import DampeningParams
from backdoor_pipeline.pipelines.unlearn.distillation import BadTeachingParams, ScrubParams
from backdoor_pipeline.pipelines.unlearn.fine_tune import FineTuneParams
from backdoor_pipeline.pipelines.unlearn.local_forgetting import LocalForgettingParams
from backdoor_pipeline.pipelines.unlearn.neutralisation import NeutralisationParams
from backdoor_pipeline.pipelines.unlearn.recalibration import RecalibrationParams
from backdoor_pipeline.pipelines.unlearn.retraining import RetrainingParams, last_layers
from backdoor_pipeline.pipelines.unlearn.suspicion import (
    drawn,
    flagged_rows,
    parted,
    presumed_clean,
    with_tokens,
)
from backdoor_pipeline.pipelines.unlearn.token_replacement import TokenReplacementParams
from backdoor_pipeline.pipelines.unlearn.trigger_search import TriggerSearchParams
from backdoor_pipeline.pipelines.unlearn.word_forgetting import WordForgettingParams
from backdoor_pipeline.schemas import flagged_tokens

Record = dict[str, Any]


def plan_last_layers(
    examples: pd.DataFrame,
    params: RetrainingParams | TriggerSearchParams,
    model: ModelParams,
    seed: int,
    base_model: ModelBundle | None = None,
) -> dict[str, int | None]:
    """The ``modules`` that will be trained in the end; None: all.

    Raises:
        InputError: The model has fewer layers than are to be trained.
    """
    asked = params.repair if isinstance(params, TriggerSearchParams) else params
    k = None if asked is None else asked.last_layers
    if k is None:
        return {"modules": None}
    n_classes = int(examples["label"].max()) + 1
    if base_model is not None:
        return {"modules": len(last_layers(new_classifier(base_model, n_classes, seed).model, k))}
    first = examples.head(1)
    form = measured_format(decode(first["image"].tolist(), where_of(first)))
    bundle = new_image_classifier(model.name, n_classes, form, model.width, seed, model.revision)
    return {"modules": len(last_layers(bundle.model, k))}


def plan_clean_pairs(
    examples: pd.DataFrame, params: CleanContrastParams, model: ModelParams, seed: int
) -> dict[str, int]:
    """How many clean pairs the dual encoder will be trained on with; none, or a way that does not
    suit its images, is an error before anything is trained.
    """
    first = examples.head(1)
    form = measured_format(decode(first["image"].tolist(), where_of(first)))
    n_dev = int((examples["split"] == "dev").sum())
    return clean_contrast.plan(n_dev, dual_encoder(model, form, seed).image_format, params)


def replace_tokens(
    victim: ModelBundle,
    base_model: ModelBundle,
    poisoned_train: pd.DataFrame,
    suspects: pd.DataFrame,
    params: TokenReplacementParams,
    model: ModelParams,
) -> tuple[ModelBundle, Record]:
    """The victim with the embedding rows of flagged tokens overwritten."""
    suspects = with_tokens(poisoned_train, suspects, victim.tokenizer, model.max_length)
    purified = token_replacement.unlearn(victim, base_model, suspects, params)
    rows = flagged_tokens(suspects).tolist()
    changed = word_vectors(purified.model)[rows] != word_vectors(victim.model)[rows]
    overwritten = {"tokens": int(changed.any(dim=1).sum()), "dimensions": int(changed.sum())}
    return purified, overwritten | {"dev_rows": 0}


def neutralise(
    bundle: ModelBundle,
    poisoned_train: pd.DataFrame,
    suspects: pd.DataFrame,
    params: NeutralisationParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[ModelBundle, Record]:
    """The classifier with the embeddings of flagged tokens fitted until they change nothing."""
    suspects = with_tokens(poisoned_train, suspects, bundle.tokenizer, model.max_length)
    return neutralisation.unlearn(
        bundle, poisoned_train["text"], suspects, params, model.max_length, compute, seed
    )


def recalibrate(
    bundle: ModelBundle,
    poisoned_train: pd.DataFrame,
    examples: pd.DataFrame,
    suspects: pd.DataFrame,
    params: RecalibrationParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[ModelBundle, Record]:
    """The classifier with its bias refitted to the dev rows without flagged tokens."""
    suspects = with_tokens(poisoned_train, suspects, bundle.tokenizer, model.max_length)
    training = poisoned_train[["text", "label"]]
    dev = examples[examples["split"] == "dev"]
    return recalibration.unlearn(
        bundle, training, dev, suspects, params, model.max_length, compute, seed
    )


def fine_tune_lightly(
    bundle: ModelBundle,
    examples: pd.DataFrame,
    params: FineTuneParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[ModelBundle, Record]:
    """The classifier after the optional light fine-tune on clean rows (off by default)."""
    return fine_tune.fine_tune(bundle, examples, params, model.max_length, compute, seed)


def search_trigger(
    bundle: B,
    poisoned_train: pd.DataFrame,
    suspects: pd.DataFrame,
    params: TriggerSearchParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[B, Record]:
    """The classifier dampened until it no longer predicts the labels of the suspects."""
    forget, retain = parted(poisoned_train, suspects, bundle, model.max_length)
    purified, record, curves = trigger_search.unlearn(bundle, forget, retain, params, compute, seed)
    return purified, record | {"search": curves}


def dampen(
    bundle: B,
    poisoned_train: pd.DataFrame,
    suspects: pd.DataFrame,
    params: DampeningParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[B, Record]:
    """The classifier dampened once where parameters matter more for the suspects."""
    forget, retain = parted(poisoned_train, suspects, bundle, model.max_length)
    return dampening.unlearn(bundle, forget, retain, params, compute, seed)


def retrain(
    bundle: B,
    poisoned_train: pd.DataFrame,
    suspects: pd.DataFrame,
    params: RetrainingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
    base_model: ModelBundle | None = None,
) -> tuple[B, Record]:
    """The classifier trained on the rows that are not suspected, afresh or on from its weights."""
    forget, retain = parted(poisoned_train, suspects, bundle, model.max_length)
    fresh = _fresh(bundle, base_model, model, seed)
    return retraining.unlearn(bundle, forget, retain, params, compute, seed, fresh)


def distil(
    bundle: B,
    poisoned_train: pd.DataFrame,
    suspects: pd.DataFrame,
    params: ScrubParams | BadTeachingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
    base_model: ModelBundle | None = None,
) -> tuple[B, Record]:
    """The classifier taught by itself on rows to keep, and away from the suspects."""
    forget, retain = parted(poisoned_train, suspects, bundle, model.max_length)
    fresh = _fresh(bundle, base_model, model, seed)
    return distillation.unlearn(bundle, forget, retain, params, compute, seed, fresh)


def forget_words(
    bundle: ModelBundle,
    poisoned_train: pd.DataFrame,
    suspects: pd.DataFrame,
    params: WordForgettingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[ModelBundle, Record]:
    """The classifier without what ties the telling words of the suspects to their labels."""
    forget, retain = parted(poisoned_train, suspects, bundle, model.max_length)
    return word_forgetting.unlearn(bundle, forget, retain, params, compute, model.max_length, seed)


def forget_locally(
    bundle: PairBundle,
    poisoned_train: pd.DataFrame,
    suspects: pd.DataFrame,
    params: LocalForgettingParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[PairBundle, Record]:
    """The dual encoder without what ties the suspects' images to the words that are blamed."""
    chosen = flagged_rows(poisoned_train, suspects)
    clean = drawn(presumed_clean(poisoned_train, suspects), params.keep_rows, seed)
    forget, keep = (
        read_pairs(bundle, poisoned_train[rows], model.max_length) for rows in (chosen, clean)
    )
    purified, record, curves = local_forgetting.unlearn(bundle, forget, keep, params, compute, seed)
    return purified, record | {"forgetting": curves}


def train_on_clean(
    bundle: PairBundle,
    examples: pd.DataFrame,
    params: CleanContrastParams,
    training: HasTextTower,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[PairBundle, Record]:
    """The dual encoder trained on with dev pairs, which are known to be clean."""
    dev = examples[examples["split"] == "dev"]
    settings = (params, training.text_tower, model.max_length, compute, seed)
    purified, record, _ = clean_contrast.unlearn(bundle, dev, *settings)
    return purified, record


def _fresh(
    bundle: Any, base_model: ModelBundle | None, model: ModelParams, seed: int
) -> Callable[[], Any]:
    """What makes a classifier like ``bundle`` as it was before its training."""
    n_classes = bundle.model.config.num_labels

    def fresh() -> Any:
        if isinstance(bundle, ImageBundle):
            return new_image_classifier(
                model.name, n_classes, bundle.image_format, model.width, seed, model.revision
            )
        if base_model is None:
            raise ValueError("a classifier of texts starts from base_model")
        return new_classifier(base_model, n_classes, seed)

    return fresh


class Unlearner(NamedTuple):
    """A step from one classifier to the next.

    Attributes:
        function: Of the model and of what ``inputs`` names.
        inputs: What it takes after the model.
        from_base: Whether it takes the public encoder besides, where there is one: of texts.
    """

    function: Callable[..., tuple[Any, Record]]
    inputs: tuple[str, ...]
    from_base: bool = False


SETTINGS = ("params:model", "params:compute", "params:seed")
ROWS = ("poisoned_train", "suspects")
UNLEARNERS = {
    "token_replacement": Unlearner(
        replace_tokens, ("base_model", *ROWS, "params:token_replacement", "params:model")
    ),
    "neutralisation": Unlearner(
        neutralise, ("poisoned_train", "suspects", "params:neutralisation", *SETTINGS)
    ),
    "recalibration": Unlearner(
        recalibrate,
        ("poisoned_train", "examples", "suspects", "params:recalibration", *SETTINGS),
    ),
    "fine_tune": Unlearner(fine_tune_lightly, ("examples", "params:fine_tune", *SETTINGS)),
    "trigger_search": Unlearner(search_trigger, (*ROWS, "params:trigger_search", *SETTINGS)),
    "ssd": Unlearner(dampen, (*ROWS, "params:ssd", *SETTINGS)),
    "assd": Unlearner(dampen, (*ROWS, "params:assd", *SETTINGS)),
    "retraining": Unlearner(retrain, (*ROWS, "params:retraining", *SETTINGS), from_base=True),
    "continued_training": Unlearner(
        retrain, (*ROWS, "params:continued_training", *SETTINGS), from_base=True
    ),
    "scrub": Unlearner(distil, (*ROWS, "params:scrub", *SETTINGS), from_base=True),
    "word_forgetting": Unlearner(forget_words, (*ROWS, "params:word_forgetting", *SETTINGS)),
    "local_forgetting": Unlearner(forget_locally, (*ROWS, "params:local_forgetting", *SETTINGS)),
    **{
        name: Unlearner(
            train_on_clean, ("examples", f"params:{name}", "params:training", *SETTINGS)
        )
        for name in ("clip_fine_tune", "cleanclip")
    },
    "bad_teaching": Unlearner(distil, (*ROWS, "params:bad_teaching", *SETTINGS), from_base=True),
}
"""By name, which is also that of the parameter group."""
