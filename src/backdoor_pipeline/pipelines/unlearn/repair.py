"""What a model lost while it forgot discovered poison, learnt again without the poison.

This is ours. The last layers are trained on, for a short time, on some of the rows to keep, in
evaluation mode. Undiscovered poison is among these rows: those of the discovered label to which the
model gives another one by now are left out, and the others repeated, so that the label stays as
common as it was. Discovered rows that have lost their label take part with the one that they have
now, so that the trigger does not come back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from backdoor_pipeline.modelling.parts import trained_part
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.training import Labelled, OptimisationParams, fit
from backdoor_pipeline.parameter_group import PositiveInt
from backdoor_pipeline.pipelines.unlearn.retraining import freeze, last_layers

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.bundle import Bundle
    from backdoor_pipeline.modelling.device import ComputeParams


class RepairParams(OptimisationParams):
    """How long and how fast, and how many layers: ``last_layers``, as in ``retraining``."""

    last_layers: PositiveInt | None


class Repaired(NamedTuple):
    """What a repair has trained, and on how many rows.

    Attributes:
        part: The layers from the first trained one on (``parts.trained_part``), which with those
            before them are the repaired model.
        forget: What the part reads of the discovered rows.
        kept: Likewise of the others.
        n_rows: How many it was trained on.
    """

    part: Bundle
    forget: Labelled
    kept: Labelled
    n_rows: int


def repair(
    bundle: Bundle,
    forget: Labelled,
    kept: Labelled,
    label: int,
    params: RepairParams,
    compute: ComputeParams,
    seed: int,
) -> Repaired:
    """Train the model on, in place.

    Args:
        bundle: The model.
        forget: The discovered rows.
        kept: Some of the others.
        label: The discovered one.
        params: Of the training.
        compute: Device and precision.
        seed: Draws the batches.

    Raises:
        InputError: The training diverged, or the model has fewer layers.
    """
    freeze(bundle.model, last_layers(bundle.model, params.last_layers))
    part, (own, others) = trained_part(bundle, [forget, kept], compute)
    rows = trusted(part, others, label, compute, seed).joined(relabelled(part, own, compute))
    fit(part, rows, None, params, compute, seed, "repair", on_step=lambda _: part.model.eval())
    bundle.model.requires_grad_(True)
    return Repaired(part, own, others, len(rows.labels))


def trusted(
    bundle: Bundle, rows: Labelled, label: int, compute: ComputeParams, seed: int
) -> Labelled:
    """``rows`` without those with ``label`` to which the model gives another one.

    In their place are as many of the others with it, drawn anew each time, if there are any.
    """
    with_label = np.flatnonzero(rows.labels == label)
    if not len(with_label):
        return rows
    agrees = predict(bundle, rows.inputs.take(with_label), compute).argmax(axis=1) == label
    own, lost = with_label[agrees], with_label[~agrees]
    again = np.random.default_rng(seed).choice(own, len(lost) if len(own) else 0)
    return rows.take(np.concatenate([np.delete(np.arange(len(rows.labels)), lost), again]))


def relabelled(bundle: Bundle, forget: Labelled, compute: ComputeParams) -> Labelled:
    """The rows of ``forget`` to which the model gives another label, with that label."""
    predicted = predict(bundle, forget.inputs, compute).argmax(axis=1)
    lost = np.flatnonzero(predicted != forget.labels)
    return Labelled(forget.inputs.take(lost), predicted[lost])
