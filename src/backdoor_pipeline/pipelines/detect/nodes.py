"""Nodes of the detect stage. A detector sees texts and labels, never the ground truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from backdoor_pipeline.modelling.bundle import ModelBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.loading import ModelParams
from backdoor_pipeline.pipelines.detect import confirmation, token_association, token_drift
from backdoor_pipeline.pipelines.detect.confirmation import ConfirmationParams
from backdoor_pipeline.pipelines.detect.token_association import TokenAssociationParams
from backdoor_pipeline.pipelines.detect.token_drift import TokenDriftParams

if TYPE_CHECKING:
    from collections.abc import Callable

SEEN = ["example_id", "text", "label"]


def detect_token_drift(
    poisoned_train: pd.DataFrame,
    base_model: ModelBundle,
    params: TokenDriftParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> pd.DataFrame:
    """Suspects by BTU's three exposures."""
    training = poisoned_train[SEEN]
    return token_drift.detect(training, base_model, params, model.max_length, compute, seed)


def detect_token_association(
    poisoned_train: pd.DataFrame,
    base_model: ModelBundle,
    params: TokenAssociationParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> pd.DataFrame:
    """Suspects by a token's association with a label beyond what the rest of the text explains."""
    training = poisoned_train[SEEN]
    return token_association.detect(training, base_model, params, model.max_length, compute, seed)


def confirm_suspects(
    raised: pd.DataFrame, confirming: pd.DataFrame, params: ConfirmationParams
) -> pd.DataFrame:
    """Suspects that one detector raises, flagged where the other confirms them."""
    return confirmation.confirm(raised, confirming, params)


def adopt_suspects(suspects: pd.DataFrame) -> pd.DataFrame:
    """The suspects of a recipe with one detector: that detector's, as they are."""
    return suspects


DETECTORS: dict[str, Callable[..., pd.DataFrame]] = {
    "token_drift": detect_token_drift,
    "token_association": detect_token_association,
}
"""Name of each detector (also of its parameter group) and its node function.

Every one takes (poisoned_train, base_model, its parameters, model, compute, seed).
"""
