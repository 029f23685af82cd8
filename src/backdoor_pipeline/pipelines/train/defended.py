"""A training that is to keep a backdoor from being learnt, made of methods that work together.

What a method adds to the model is merged into its weights afterwards, so that the model that comes
out is an ordinary one; a prefix alone stays before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.objectives import balanced_weights, cross_entropy
from backdoor_pipeline.modelling.training import (
    History,
    OptimisationParams,
    fit,
    labelled,
)
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveInt, Share
from backdoor_pipeline.pipelines.train import (
    adapter,
    anti_backdoor,
    gradient_alignment,
    low_rank,
    moderate_fitting,
    prefix,
    radial_scaling,
)
from backdoor_pipeline.pipelines.train.gradient_alignment import Alignment
from backdoor_pipeline.recipes import NEED_CLEAN_ROWS

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

METHODS = (*ADAPTATIONS, "gradient_alignment", "clean_only", "anti_backdoor")


class DefendedTrainingParams(ParameterGroup):
    """How models are trained by methods that resist a backdoor.

    ``dropout`` is that of the encoder; the head that ``radial_scaling`` gives GPT-2 and Llama has
    its own. The learning rate is for all weights; methods that train a few of their own have one of
    theirs, and of several such the last of ``ADAPTATIONS`` gives it.
    """

    clean_rows: PositiveInt
    select: Literal["last", "best"]
    class_balanced: bool
    dropout: Share | None
    optimisation: OptimisationParams


class CleanOnlyParams(ParameterGroup):
    """The same training on the clean rows alone: what any method that has them must beat."""

    epochs: PositiveInt


def plan(
    base_model: ModelBundle,
    params: DefendedTrainingParams,
    methods: Mapping[str, Any],
    n_classes: int,
    max_length: int,
    seed: int,
) -> dict[str, int]:
    """The weights that the methods would train, by name, and how many numbers each has.

    Raises:
        InputError: A method does not fit the model, or the methods do not go together.
    """
    model = _adapted(base_model, params, methods, n_classes, max_length, seed).model
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    if "gradient_alignment" in methods:
        gradient_alignment.check_memory(sum(trained.values()), methods["gradient_alignment"])
    return trained


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
    clean: pd.DataFrame | None = None,
) -> tuple[ModelBundle, History, dict[str, Any]]:
    """The classifier, its history, and what was used and done.

    Args:
        poisoned: The training rows, ``example_id``, ``text`` and ``label``.
        dev: Clean rows that choose the epoch if ``select`` is "best"; none of ``clean``.
        base_model: The pretrained encoder; unchanged.
        params: Of the training.
        methods: Parameters by the names of ``METHODS``.
        n_classes: Number of labels.
        max_length: Tokens per text, special tokens counted.
        compute: Device and precision.
        seed: Draws the head, what methods add and the batches.
        clean: Rows that the defender knows to be clean, for the methods that learn from some.

    Returns:
        The classifier; its history; and a record: ``dev_rows`` that chose the epoch, how many
        ``trained_parameters`` there were, and which rows were ``isolated``, if that was done.

    Raises:
        InputError: See ``plan``.
    """
    if clean is None and NEED_CLEAN_ROWS & methods.keys():
        raise ValueError(f"{', '.join(methods)}: they learn from clean rows, but none are given")
    bundle = _adapted(base_model, params, methods, n_classes, max_length, seed)
    adaptations = [name for name in ADAPTATIONS if name in methods]
    trained = [p for p in bundle.model.parameters() if p.requires_grad]
    optimisation = params.optimisation
    for name in adaptations:
        if rate := getattr(methods[name], "learning_rate", None):
            optimisation = optimisation.model_copy(update={"learning_rate": rate})
    rows, align = poisoned, None
    objective = partial(cross_entropy, class_balanced=params.class_balanced)
    if clean is not None:
        weights = None
        if params.class_balanced:  # not in each batch: with few rows, one would weigh too much
            weights = balanced_weights(clean["label"].to_numpy(), n_classes)
        if "clean_only" in methods:
            rows, objective = clean, partial(cross_entropy, label_weights=weights)
            optimisation = optimisation.model_copy(update={"epochs": methods["clean_only"].epochs})
        if "gradient_alignment" in methods:
            alignment = methods["gradient_alignment"]
            objective = partial(objective, minimum_confidence=alignment.minimum_confidence)
            align = Alignment(
                bundle,
                labelled(clean, bundle, max_length),
                alignment,
                optimisation.epochs,
                compute,
                seed,
                weights,
            )
    choosing = params.select == "best" and optimisation.epochs > 1
    best = labelled(dev, bundle, max_length) if choosing else None
    data = labelled(rows, bundle, max_length)
    record: dict[str, Any] = {
        "dev_rows": len(dev) if choosing else 0,
        "trained_parameters": sum(p.numel() for p in trained),
    }
    if "anti_backdoor" in methods:
        history, isolated = anti_backdoor.train(
            bundle, data, best, methods["anti_backdoor"], optimisation, compute, seed, objective
        )
        record["isolated_rows"] = len(isolated)
        record["isolated"] = rows["example_id"].to_numpy()[isolated].tolist()
    else:
        history = fit(
            bundle,
            data,
            best,
            optimisation,
            compute,
            seed,
            "defended",
            align,
            objective=objective,
        )
    for name in reversed(adaptations):
        ADAPTATIONS[name].merge(bundle.model, methods[name])
    bundle.model.requires_grad_(True)
    return bundle, history, record


def _adapted(
    base_model: ModelBundle,
    params: DefendedTrainingParams,
    methods: Mapping[str, Any],
    n_classes: int,
    max_length: int,
    seed: int,
) -> ModelBundle:
    """A new classifier with what the methods put into it."""
    import torch

    if "anti_backdoor" in methods and (others := NEED_CLEAN_ROWS & methods.keys()):
        raise InputError(
            f"anti_backdoor has stages of its own, which {sorted(others)[0]} does not know; "
            "a recipe may have one of them"
        )
    if "prefix" in methods:
        prefix.check_length(base_model.model, methods["prefix"], max_length)
    bundle = new_classifier(base_model, n_classes, seed, params.dropout)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, adaptation in ADAPTATIONS.items():
            if name in methods:
                adapted = adaptation.adapt(bundle.model, methods[name])
                bundle = bundle._replace(model=adapted)
    return bundle
