"""Nodes of the detect stage. A detector sees contents and labels, never the ground truth.

``discovered_share`` is the exception: it plays a defender who was told a part of the poison.

Each returns its suspects and a record of what it did, in numbers; ``dev_rows`` among them counts
the dev rows that it used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import pandas as pd

from backdoor_pipeline.modelling.bundle import ModelBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.loading import ModelParams
from backdoor_pipeline.pipelines.detect import (
    confirmation,
    discovered_share,
    token_association,
    token_drift,
)
from backdoor_pipeline.pipelines.detect.confirmation import ConfirmationParams
from backdoor_pipeline.pipelines.detect.discovered_share import DiscoveredShareParams
from backdoor_pipeline.pipelines.detect.token_association import TokenAssociationParams
from backdoor_pipeline.pipelines.detect.token_drift import TokenDriftParams

Record = dict[str, Any]
SEEN = ["example_id", "text", "label"]


def detect_token_drift(
    poisoned_train: pd.DataFrame,
    base_model: ModelBundle,
    params: TokenDriftParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[pd.DataFrame, Record]:
    """Suspects by BTU's three exposures."""
    training = poisoned_train[SEEN]
    suspects = token_drift.detect(training, base_model, params, model.max_length, compute, seed)
    return suspects, {"dev_rows": 0}


def detect_token_association(
    poisoned_train: pd.DataFrame,
    examples: pd.DataFrame,
    base_model: ModelBundle,
    params: TokenAssociationParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[pd.DataFrame, Record]:
    """Suspects by a token's association with a label, if it was inserted rather than written.

    Of ``examples`` only dev rows are used, and those only if ``params.clean_rows`` declares them.
    """
    dev = examples.loc[examples["split"] == "dev", SEEN]
    clean = dev.sample(min(params.clean_rows, len(dev)), random_state=seed)
    suspects = token_association.detect(
        poisoned_train[SEEN],
        base_model,
        params,
        model.max_length,
        compute,
        seed,
        clean=None if clean.empty else clean,
    )
    return suspects, {"dev_rows": len(clean)}


def confirm_suspects(
    raised: pd.DataFrame, confirming: pd.DataFrame, params: ConfirmationParams
) -> tuple[pd.DataFrame, Record]:
    """Suspects that one detector raises, flagged where the other confirms them."""
    return confirmation.confirm(raised, confirming, params), {"dev_rows": 0}


class HasRate(Protocol):
    """What the plan needs to know of the poison stage."""

    rate: float


def plan_discovered_share(
    examples: pd.DataFrame, poison: HasRate, params: DiscoveredShareParams, seed: int
) -> dict[str, int]:
    """How many rows will be told: what cannot be told is an error before anything is trained."""
    train = examples[examples["split"] == "train"]
    as_many_as_poisoned = train.head(int(poison.rate * len(train)))
    ids = train["example_id"].to_numpy()
    return {"told_rows": len(discovered_share.detect(as_many_as_poisoned, ids, params, seed))}


def tell_discovered_share(
    poison_index: pd.DataFrame,
    poisoned_train: pd.DataFrame,
    params: DiscoveredShareParams,
    seed: int,
) -> tuple[pd.DataFrame, Record]:
    """Suspects that the defender was told: a share of the poisoned rows, or a list of his own."""
    ids = poisoned_train["example_id"].to_numpy()
    suspects = discovered_share.detect(poison_index, ids, params, seed)
    return suspects, {"dev_rows": 0, "told_rows": len(suspects)}


class Detector(NamedTuple):
    """A detector's node: its function, and what that takes."""

    function: Callable[..., tuple[pd.DataFrame, Record]]
    inputs: tuple[str, ...]


SETTINGS = ("params:model", "params:compute", "params:seed")
DETECTORS = {
    "token_drift": Detector(
        detect_token_drift, ("poisoned_train", "base_model", "params:token_drift", *SETTINGS)
    ),
    "token_association": Detector(
        detect_token_association,
        ("poisoned_train", "examples", "base_model", "params:token_association", *SETTINGS),
    ),
    "confirmation": Detector(
        confirm_suspects,
        ("token_drift_suspects", "token_association_suspects", "params:confirmation"),
    ),
    "discovered_share": Detector(
        tell_discovered_share,
        ("poison_index", "poisoned_train", "params:discovered_share", "params:seed"),
    ),
}
"""By name, which is also that of the parameter group."""
