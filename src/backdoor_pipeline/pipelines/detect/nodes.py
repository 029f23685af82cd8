"""Nodes of the detect stage. A detector sees contents and labels, never the ground truth.

``discovered_share`` is the exception: it plays a defender who was told a part of the poison.

Each returns its suspects and a record of what it did, in numbers; ``dev_rows`` among them counts
the dev rows that it used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from backdoor_pipeline.modelling.blame import blame, most_blamed
from backdoor_pipeline.modelling.bundle import ModelBundle, PairBundle
from backdoor_pipeline.modelling.contrastive import HasTextTower, pairs_to_train
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.embeddings import decode
from backdoor_pipeline.modelling.loading import ModelParams
from backdoor_pipeline.modelling.matching import similarities
from backdoor_pipeline.modelling.pairs import read_captions, read_pairs
from backdoor_pipeline.pipelines.detect import (
    confirmation,
    discovered_share,
    overfit_similarity,
    token_association,
    token_drift,
    trusted_encoder,
)
from backdoor_pipeline.pipelines.detect.confirmation import ConfirmationParams
from backdoor_pipeline.pipelines.detect.discovered_share import DiscoveredShareParams
from backdoor_pipeline.pipelines.detect.overfit_similarity import OverfitSimilarityParams
from backdoor_pipeline.pipelines.detect.token_association import TokenAssociationParams
from backdoor_pipeline.pipelines.detect.token_drift import TokenDriftParams
from backdoor_pipeline.pipelines.detect.trusted_encoder import TrustedEncoderParams

logger = logging.getLogger(__name__)

DECODED_ROWS = 20_000  # pairs whose pixels and vectors are in memory at a time

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


def plan_overfit_similarity(
    examples: pd.DataFrame, params: OverfitSimilarityParams
) -> dict[str, int]:
    """How many pairs will be looked at: what cannot find anything is an error before training."""
    labels = examples.loc[examples["split"] == "train", "label"].to_numpy()
    return overfit_similarity.plan(labels, params)


def draw_trusted_pairs(
    examples: pd.DataFrame, params: TrustedEncoderParams, model: ModelParams, seed: int
) -> pd.DataFrame:
    """The dev rows that the trusted encoder is trained on; one that cannot be had is an error."""
    pairs = trusted_encoder.draw(examples, params, model, seed)
    trusted_encoder.untrained(pairs, examples, params, model, seed)
    return pairs


def train_trusted_encoder(
    trusted_pairs: pd.DataFrame,
    examples: pd.DataFrame,
    params: TrustedEncoderParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> PairBundle:
    """A dual encoder that has not seen the training rows."""
    bundle = trusted_encoder.untrained(trusted_pairs, examples, params, model, seed)
    settings = (params, model.max_length, compute, seed)
    return trusted_encoder.train(bundle, trusted_pairs, *settings)


def score_by_trusted(
    poisoned_train: pd.DataFrame,
    trusted: PairBundle,
    model: ModelParams,
    compute: ComputeParams,
) -> pd.DataFrame:
    """``trusted_similarity``: that of each image and its caption under the trusted encoder."""
    return _similarity(poisoned_train, trusted, model, compute)


def overfit_victim(
    poisoned_train: pd.DataFrame,
    victim: PairBundle,
    trusted_similarity: pd.DataFrame,
    params: OverfitSimilarityParams,
    training: HasTextTower,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> PairBundle:
    """The victim, trained on the pairs that the trusted encoder finds least similar."""
    if params.overfitting is None:
        return victim
    reference = trusted_similarity["similarity"].to_numpy()
    rows = poisoned_train.iloc[overfit_similarity.weakest(reference, params)]
    pool = pairs_to_train(victim, rows, model.max_length, training.text_tower, None, compute)
    return overfit_similarity.overfitted(victim, pool, params.overfitting, compute, seed)


def rank_pairs(
    poisoned_train: pd.DataFrame,
    overfitted: PairBundle,
    trusted_similarity: pd.DataFrame,
    params: OverfitSimilarityParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> pd.DataFrame:
    """``pair_ranks``: of each pair both similarities and its score; of the first ones the rank.

    The vectors of all images are in a file meanwhile, not in memory.
    """
    reference = trusted_similarity["similarity"].to_numpy()
    shape = (len(poisoned_train), overfitted.model.config.projection_dim)
    with TemporaryDirectory() as folder:
        vectors = np.memmap(Path(folder) / "vectors", np.float16, "w+", shape=shape)
        similar = _similarity(poisoned_train, overfitted, model, compute, vectors)
        own = overfit_similarity.scores_of(similar["similarity"].to_numpy(), reference, params)
        images = pd.factorize(poisoned_train["image"])[0]
        scores = overfit_similarity.averaged(own, vectors, images, params, seed)
        del vectors
    pool = overfit_similarity.weakest(reference, params)
    ranked = overfit_similarity.ranked(scores, pool, params)
    rank = pd.Series(pd.NA, index=similar.index, dtype="Int64")
    rank.iloc[ranked] = range(1, len(ranked) + 1)
    return similar.assign(trusted_similarity=reference, score=scores.astype("float64"), rank=rank)


def detect_overfit_similarity(
    poisoned_train: pd.DataFrame,
    victim: PairBundle,
    trusted: PairBundle,
    pair_ranks: pd.DataFrame,
    trusted_pairs: pd.DataFrame,
    params: OverfitSimilarityParams,
    model: ModelParams,
    compute: ComputeParams,
) -> tuple[pd.DataFrame, Record]:
    """Suspects by UBT: of the first pairs those whose captions say the same."""
    ranks = pair_ranks["rank"].dropna().astype("int64").sort_values()
    ranked, scores = ranks.index.to_numpy(), pair_ranks["score"].to_numpy()
    exposed = read_pairs(victim, poisoned_train.iloc[ranked], model.max_length)
    every = read_captions(victim, poisoned_train["caption"], model.max_length)
    blamed = most_blamed(exposed, blame(victim, exposed, compute))
    groups = overfit_similarity.groups_of(exposed, blamed, *every, trusted, params, compute)
    reference = pair_ranks["trusted_similarity"].to_numpy()
    rows = np.unique(np.linspace(0, len(reference) - 1, overfit_similarity.UNRELATED_ROWS).round())
    some = read_pairs(trusted, poisoned_train.iloc[rows.astype(int)], model.max_length)
    highest = overfit_similarity.highest_of_backdoors(reference, trusted, some, compute)
    images = pd.factorize(poisoned_train["image"].iloc[ranked])[0]
    of_exposed = (reference[ranked], highest, images, groups)
    choice = overfit_similarity.choose(ranked, scores, *of_exposed, params)
    ids, captions = poisoned_train["example_id"].to_numpy(), poisoned_train["caption"].tolist()
    written = [token.strip() for token in decode(victim.tokenizer, blamed)]
    of_pairs = (scores, reference, ids, captions)
    suspects = overfit_similarity.suspects_table(ranked, choice, *of_pairs, written)
    if not len(choice.suspects):
        logger.warning("overfit_similarity: no backdoor was found, the model will stay as it is")
    return suspects, {
        "dev_rows": len(trusted_pairs),
        "exposed_pairs": len(ranked),
        "group_pairs": int(choice.group.sum()),
        "found": choice.n_groups,
    }


def _similarity(
    rows: pd.DataFrame,
    bundle: PairBundle,
    model: ModelParams,
    compute: ComputeParams,
    vectors: np.ndarray | None = None,
) -> pd.DataFrame:
    """The similarity of each pair; ``vectors``, (n_rows, d), gets those of the images."""
    similar = np.empty(len(rows))
    for start, end in pairwise([*range(0, len(rows), DECODED_ROWS), len(rows)]):
        pairs = read_pairs(bundle, rows[start:end], model.max_length)
        own = None if vectors is None else vectors[start:end]
        similar[start:end] = similarities(bundle, pairs, compute, own)
    return pd.DataFrame({"example_id": rows["example_id"].to_numpy(), "similarity": similar})


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
    "overfit_similarity": Detector(
        detect_overfit_similarity,
        (
            *("poisoned_train", "victim_model", "trusted_encoder", "pair_ranks", "trusted_pairs"),
            *("params:overfit_similarity", "params:model", "params:compute"),
        ),
    ),
}
"""By name, which is also that of the parameter group."""
