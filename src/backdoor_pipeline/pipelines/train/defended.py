"""A training that is to keep a backdoor from being learnt, made of methods that work together.

What a method adds to the model is merged into its weights afterwards, so that the model that comes
out is an ordinary one; a prefix alone stays before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.training import (
    History,
    OptimisationParams,
    fit,
    labelled,
)
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveInt, Share
from backdoor_pipeline.pipelines.train import (
    adapter,
    low_rank,
    moderate_fitting,
    prefix,
    radial_scaling,
)
from backdoor_pipeline.pipelines.train.gradient_alignment import Alignment
from backdoor_pipeline.schemas import drawn

if TYPE_CHECKING:
    import pandas as pd

    from backdoor_pipeline.modelling.bundle import ModelBundle
    from backdoor_pipeline.modelling.device import ComputeParams

ADAPTATIONS: dict[str, Any] = {
    "prefix": prefix,
    "low_rank": low_rank,
    "adapter": adapter,
    "radial_scaling": radial_scaling,
    "moderate_fitting": moderate_fitting,
}
"""What is put into the model, one after the other: modules with ``adapt`` and ``merge``."""

METHODS = (*ADAPTATIONS, "gradient_alignment", "clean_only")
NEED_CLEAN_ROWS = {"gradient_alignment", "clean_only"}


class DefendedTrainingParams(ParameterGroup):
    """How models are trained by methods that resist a backdoor.

    The learning rate is for all weights; methods that train a few of their own have one of theirs.
    """

    clean_rows: PositiveInt
    select: Literal["last", "best"]
    dropout: Share | None
    optimisation: OptimisationParams


class CleanOnlyParams(ParameterGroup):
    """The same training on the clean rows alone: what any method that has them must beat."""

    epochs: PositiveInt


def train(
    poisoned: pd.DataFrame,
    dev: pd.DataFrame,
    base_model: ModelBundle,
    params: DefendedTrainingParams,
    methods: Mapping[str, Any],
    n_classes: int,
    max_length: int,
    compute: ComputeParams,
    seed: int,
) -> tuple[ModelBundle, History, dict[str, int]]:
    """The classifier, its history, and how many dev rows and trained parameters there were.

    Args:
        poisoned: The training rows, ``text`` and ``label``.
        dev: Rows that the defender knows to be clean: ``clean_rows`` of them are learnt from where
            a method needs them, and the others choose the epoch if ``select`` is "best".
        base_model: The pretrained encoder; unchanged.
        params: Of the training.
        methods: Parameters by the names of ``METHODS``.
        n_classes: Number of labels.
        max_length: Tokens per text, special tokens counted.
        compute: Device and precision.
        seed: Draws the head, what methods add, the clean rows and the batches.

    Raises:
        InputError: There are fewer dev rows than ``clean_rows``, or a method does not fit the
            model.
    """
    import torch

    if "prefix" in methods:
        prefix.check_length(base_model.model, methods["prefix"], max_length)
    bundle = new_classifier(base_model, n_classes, seed, params.dropout)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adaptations = [name for name in ADAPTATIONS if name in methods]
        for name in adaptations:
            adapted = ADAPTATIONS[name].adapt(bundle.model, methods[name])
            bundle = bundle._replace(model=adapted)
    trained = [p for p in bundle.model.parameters() if p.requires_grad]
    optimisation = params.optimisation
    for name in adaptations:
        if rate := getattr(methods[name], "learning_rate", None):
            optimisation = optimisation.model_copy(update={"learning_rate": rate})
    rows, clean, others, align = poisoned, dev.head(0), dev, None
    if NEED_CLEAN_ROWS & methods.keys():
        clean, others = drawn(dev, params.clean_rows, seed)
    if "clean_only" in methods:
        rows = clean
        optimisation = optimisation.model_copy(update={"epochs": methods["clean_only"].epochs})
    if "gradient_alignment" in methods:
        align = Alignment(
            bundle,
            labelled(clean, bundle, max_length),
            methods["gradient_alignment"],
            optimisation.epochs,
            compute,
            seed,
        )
    best = labelled(others, bundle, max_length) if params.select == "best" else None
    data = labelled(rows, bundle, max_length)
    history = fit(bundle, data, best, optimisation, compute, seed, "defended", align)
    for name in reversed(adaptations):
        ADAPTATIONS[name].merge(bundle.model, methods[name])
    bundle.model.requires_grad_(True)
    used = len(clean) + (len(others) if best is not None and optimisation.epochs > 1 else 0)
    return (
        bundle,
        history,
        {"dev_rows": used, "trained_parameters": sum(p.numel() for p in trained)},
    )
