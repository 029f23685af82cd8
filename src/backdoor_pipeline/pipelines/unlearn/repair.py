"""What a model lost while it forgot discovered poison, learnt again without the poison.

This is ours. The model is trained on, for a short time, on some of the rows to keep. Undiscovered
poison is among them: those of the discovered label to which the model gives another one by now are
left out, and the others repeated, so that the label stays as common as it was. Discovered rows that
have lost their label take part with the one that they have now, so that the trigger does not come
back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.training import Labelled, fit

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.bundle import Bundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.training import OptimisationParams


def repair(
    bundle: Bundle,
    forget: Labelled,
    kept: Labelled,
    label: int,
    params: OptimisationParams,
    compute: ComputeParams,
    seed: int,
) -> int:
    """Train the model on, in place; its layers compute as in evaluation. How many rows it saw.

    Args:
        bundle: The model.
        forget: The discovered rows.
        kept: Some of the others.
        label: The discovered one.
        params: Of the training.
        compute: Device and precision.
        seed: Draws the batches.

    Raises:
        InputError: The training diverged.
    """
    rows = trusted(bundle, kept, label, compute, seed).joined(relabelled(bundle, forget, compute))
    fit(bundle, rows, None, params, compute, seed, "repair", on_step=lambda _: bundle.model.eval())
    return len(rows.labels)


def trusted(
    bundle: Bundle, rows: Labelled, label: int, compute: ComputeParams, seed: int
) -> Labelled:
    """``rows`` without those with ``label`` to which the model gives another one.

    In their place are as many of the others with it, drawn anew each time, if there are any.
    """
    predicted = predict(bundle, rows.inputs, compute).argmax(axis=1)
    has_label, agrees = rows.labels == label, predicted == rows.labels
    kept, own = np.flatnonzero(agrees | ~has_label), np.flatnonzero(agrees & has_label)
    n_missing = len(rows.labels) - len(kept) if len(own) else 0
    again = np.random.default_rng(seed).choice(own, n_missing)
    return rows.take(np.concatenate([kept, again]))


def relabelled(bundle: Bundle, forget: Labelled, compute: ComputeParams) -> Labelled:
    """The rows of ``forget`` to which the model gives another label, with that label."""
    predicted = predict(bundle, forget.inputs, compute).argmax(axis=1)
    lost = np.flatnonzero(predicted != forget.labels)
    return Labelled(forget.inputs.take(lost), predicted[lost])
