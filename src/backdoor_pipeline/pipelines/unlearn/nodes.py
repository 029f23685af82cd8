"""Nodes of the unlearn stage. An unlearner sees texts and labels, never the ground truth.

Each returns the classifier and a record of what it did, in numbers; ``dev_rows`` among them counts
the dev rows that it used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from backdoor_pipeline.modelling.bundle import ModelBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.embeddings import word_vectors
from backdoor_pipeline.modelling.loading import ModelParams
from backdoor_pipeline.pipelines.unlearn import (
    fine_tune,
    neutralisation,
    recalibration,
    token_replacement,
)
from backdoor_pipeline.pipelines.unlearn.fine_tune import FineTuneParams
from backdoor_pipeline.pipelines.unlearn.neutralisation import NeutralisationParams
from backdoor_pipeline.pipelines.unlearn.recalibration import RecalibrationParams
from backdoor_pipeline.pipelines.unlearn.token_replacement import TokenReplacementParams
from backdoor_pipeline.schemas import flagged_tokens

Record = dict[str, Any]


def replace_tokens(
    victim: ModelBundle,
    base_model: ModelBundle,
    suspects: pd.DataFrame,
    params: TokenReplacementParams,
) -> tuple[ModelBundle, Record]:
    """The victim with the embedding rows of flagged tokens overwritten."""
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


class Unlearner(NamedTuple):
    """A step from one classifier to the next: its function, and what that takes after the model."""

    function: Callable[..., tuple[ModelBundle, Record]]
    inputs: tuple[str, ...]


SETTINGS = ("params:model", "params:compute", "params:seed")
UNLEARNERS = {
    "token_replacement": Unlearner(
        replace_tokens, ("base_model", "suspects", "params:token_replacement")
    ),
    "neutralisation": Unlearner(
        neutralise, ("poisoned_train", "suspects", "params:neutralisation", *SETTINGS)
    ),
    "recalibration": Unlearner(
        recalibrate,
        ("poisoned_train", "examples", "suspects", "params:recalibration", *SETTINGS),
    ),
    "fine_tune": Unlearner(fine_tune_lightly, ("examples", "params:fine_tune", *SETTINGS)),
}
"""By name, which is also that of the parameter group."""
