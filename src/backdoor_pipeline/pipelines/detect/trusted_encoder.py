"""A dual encoder that has not learnt the shortcut: what the defender of pairs must own.

Source: UBT, arXiv 2403.16257, whose defender may use the public model that the victim was
fine-tuned from: that is the default where the victim starts from a whole dual encoder. Where there
is none (ours), a small one is trained on a few pairs that are known to be clean. Without any, it is
one that was drawn and knows nothing. The victim after few steps is none: it has begun to learn the
shortcut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.contrastive import fit_pairs, pairs_to_train
from backdoor_pipeline.modelling.dual_encoders import dual_encoder
from backdoor_pipeline.modelling.inputs import where_of
from backdoor_pipeline.modelling.pixels import Augmentation, decode, measured_format
from backdoor_pipeline.modelling.training import OptimisationParams
from backdoor_pipeline.parameter_group import Count, ParameterGroup

if TYPE_CHECKING:
    import pandas as pd

    from backdoor_pipeline.modelling.bundle import PairBundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.folders import ModelParams

STREAM = 4  # keeps these draws apart from those of the victim


class TrustedEncoderParams(ParameterGroup):
    """Where it comes from.

    Attributes:
        name: Hub id or folder of a dual encoder that is trusted; None: the one that the victim
            starts from; where that has a tower drawn anew, one is trained.
        revision: Of a hub id; None: the newest.
        rows: Pairs that it is trained on, drawn from the dev rows; 0: it is drawn, not trained.
        optimisation: How it is trained.
        augmentation: Of its images.
    """

    name: str | None
    revision: str | None = None
    rows: Count
    optimisation: OptimisationParams
    augmentation: Augmentation | None = None


def as_it_is(params: TrustedEncoderParams, model: ModelParams) -> ModelParams | None:
    """The whole dual encoder that is trusted; None: one is drawn, and trained."""
    if params.name is not None:
        named = {"name": params.name, "revision": params.revision, "tower": None}
        return model.model_copy(update=named)
    return model if model.tower is None else None


def draw(
    examples: pd.DataFrame, params: TrustedEncoderParams, model: ModelParams, seed: int
) -> pd.DataFrame:
    """The trusted pairs; none, where the encoder is not trained.

    Raises:
        InputError: There are fewer dev rows.
    """
    n_rows = 0 if as_it_is(params, model) else params.rows
    dev = examples[examples["split"] == "dev"]
    if n_rows > len(dev):
        raise InputError(
            f"trusted_encoder.rows is {n_rows:,}, but the dev split has {len(dev):,} rows; lower "
            "it, raise ingest.dev_share, or name a trusted encoder (trusted_encoder.name)"
        )
    return dev.sample(n_rows, random_state=seed).sort_values("example_id", ignore_index=True)


def untrained(
    pairs: pd.DataFrame,
    examples: pd.DataFrame,
    params: TrustedEncoderParams,
    model: ModelParams,
    seed: int,
) -> PairBundle:
    """The trusted encoder before it is trained: one that is trusted as it is, or one that is drawn.

    Args:
        pairs: Of ``draw``.
        examples: What a drawn encoder is to read.
        params: Of it.
        model: That the victim starts from, whose architecture it has.
        seed: Draws it.

    Raises:
        InputError: It cannot be had, or cannot be trained on such images.
    """
    shown = pairs if len(pairs) else examples.head(1)
    form = measured_format(decode(shown["image"].tolist(), where_of(shown)))
    bundle = dual_encoder(as_it_is(params, model) or model, form, _own(seed))
    if len(pairs) and params.augmentation is not None:
        params.augmentation.check(bundle.image_format)
    return bundle


def train(
    bundle: PairBundle,
    pairs: pd.DataFrame,
    params: TrustedEncoderParams,
    max_length: int,
    compute: ComputeParams,
    seed: int,
) -> PairBundle:
    """The trusted encoder: ``bundle``, trained in place on ``pairs``, if there are any.

    Args:
        bundle: Of ``untrained``.
        pairs: Of ``draw``.
        params: How.
        max_length: Tokens per caption, special tokens counted.
        compute: Device and precision.
        seed: Of the order.

    Raises:
        InputError: The training diverged.
    """
    if len(pairs):
        reading = (max_length, "frozen", params.augmentation)
        read = pairs_to_train(bundle, pairs, *reading, compute)
        fit_pairs(bundle, read, params.optimisation, compute, _own(seed), "trusted encoder")
    return bundle


def _own(seed: int) -> int:
    return int(np.random.default_rng([seed, STREAM]).integers(2**31))
