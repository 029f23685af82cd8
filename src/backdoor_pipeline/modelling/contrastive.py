"""The training of dual encoders: the loop of ``training`` with the loss of ``matching``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backdoor_pipeline.modelling.matching import hold_scale, matching_loss, text_states
from backdoor_pipeline.modelling.pairs import read_pairs
from backdoor_pipeline.modelling.training import Labelled, fit

if TYPE_CHECKING:
    import pandas as pd

    from backdoor_pipeline.modelling.bundle import PairBundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.pairs import Pairs
    from backdoor_pipeline.modelling.pixels import Augmentation
    from backdoor_pipeline.modelling.training import History, OptimisationParams


def pairs_to_train(
    bundle: PairBundle,
    rows: pd.DataFrame,
    max_length: int,
    text_tower: str,
    augmentation: Augmentation | None,
    compute: ComputeParams,
) -> Pairs:
    """The ``image`` and ``caption`` of ``rows`` as a training reads them.

    Args:
        bundle: The dual encoder.
        rows: With their ``example_id``.
        max_length: Tokens per caption, special tokens counted.
        text_tower: "frozen": what it makes of the captions is computed once; or "trained".
        augmentation: Of the images.
        compute: Device and precision.
    """
    pairs = read_pairs(bundle, rows, max_length)
    if text_tower == "frozen":
        pairs = replace(pairs, states=text_states(bundle, pairs.texts, compute))
    if augmentation is not None:
        pairs = replace(pairs, images=pairs.images.augmented(augmentation))
    return pairs


def fit_pairs(
    bundle: PairBundle,
    pairs: Pairs,
    params: OptimisationParams,
    compute: ComputeParams,
    seed: int,
    what: str,
    in_evaluation: bool = False,
) -> History:
    """Train the dual encoder in place and return its loss, that of ``matching``.

    The text tower stays as it is where the pairs have what it makes of the captions.

    Args:
        bundle: The dual encoder.
        pairs: To train on.
        params: How.
        compute: Device and precision.
        seed: Of the order.
        what: Is trained, for messages.
        in_evaluation: Whether the model is in evaluation mode meanwhile, so that statistics of
            batch normalisation stay as they are.

    Raises:
        InputError: The training diverged; the message names the settings to change.
    """
    from backdoor_pipeline.modelling.networks.matcher import Matcher

    model: Any = bundle.model
    model.text_model.requires_grad_(pairs.states is None)
    matcher = bundle._replace(model=Matcher(model))  # type: ignore[arg-type]

    def after_step(_step: int) -> None:
        if in_evaluation:
            matcher.model.eval()
        hold_scale(model)

    history = fit(
        *(matcher, Labelled(pairs, pairs.captions), None, params, compute, seed, what),
        on_step=after_step,
        objective=matching_loss,
        loss=matching_loss,
    )
    model.requires_grad_(True).eval()
    return history
