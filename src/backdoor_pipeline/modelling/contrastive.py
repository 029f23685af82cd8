"""The training of dual encoders: the loop of ``training`` with the loss of ``matching``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from backdoor_pipeline.modelling.matching import hold_scale, matching_loss, text_states
from backdoor_pipeline.modelling.pairs import read_pairs
from backdoor_pipeline.modelling.training import Labelled, fit

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pandas as pd

    from backdoor_pipeline.modelling.bundle import PairBundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.objectives import Objective
    from backdoor_pipeline.modelling.pairs import Pairs
    from backdoor_pipeline.modelling.pixels import Augmentation
    from backdoor_pipeline.modelling.training import History, OptimisationParams


class HasTextTower(Protocol):
    """What further training needs to know of the victim's."""

    text_tower: str


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

    frozen = pairs.states is not None
    matcher = Matcher(bundle.model)
    optimisation = (params, compute, seed, what)
    return fit_matcher(
        bundle, matcher, pairs, pairs.captions, *optimisation, frozen, matching_loss, in_evaluation
    )


def fit_matcher(
    bundle: PairBundle,
    matcher: Any,
    inputs: Any,
    captions: np.ndarray,
    params: OptimisationParams,
    compute: ComputeParams,
    seed: int,
    what: str,
    frozen: bool,
    loss: Objective,
    in_evaluation: bool = False,
    on_step: Callable[[int], object] | None = None,
) -> History:
    """Train the dual encoder in place through ``matcher``, a network that asks it; its loss.

    Args:
        bundle: The dual encoder.
        matcher: Reads ``inputs`` and gives what ``loss`` takes.
        inputs: The pairs.
        captions: Which is each pair's, (n_pairs,).
        params: How.
        compute: Device and precision.
        seed: Of the order.
        what: Is trained, for messages.
        frozen: Whether the text tower stays as it is.
        loss: Of what ``matcher`` gives and of the captions.
        in_evaluation: As of ``fit_pairs``.
        on_step: As of ``training.fit``.

    Raises:
        InputError: The training diverged.
    """
    model: Any = bundle.model
    model.text_model.requires_grad_(not frozen)

    def after_step(step: int) -> None:
        if in_evaluation:
            matcher.eval()
        hold_scale(model)
        if on_step is not None:
            on_step(step)

    history = fit(
        bundle._replace(model=matcher),
        *(Labelled(inputs, captions), None, params, compute, seed, what),
        on_step=after_step,
        objective=loss,
        loss=loss,
    )
    model.requires_grad_(True).eval()
    return history
