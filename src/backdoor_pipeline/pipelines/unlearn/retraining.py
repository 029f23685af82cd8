"""Training again on the rows that were not discovered, from fresh weights or from those there are.

Source: "Corrective Machine Unlearning", TMLR 2024, arXiv 2402.14015, as the baselines of "Potion:
Towards Poison Unlearning", arXiv 2406.09173:

* EU (exact unlearning): the last k layers get fresh weights and are trained on the other rows; with
  all layers, this is what would have come out without the discovered rows;
* CF (catastrophic forgetting): the last k layers are trained on from the weights that they have.

Earlier layers stay as they are and compute in evaluation mode, so that the statistics of their
batch normalisation stay too. A layer is a module whose weight has two dimensions or more (dense,
convolution, embedding), in the order in which the model has them. What comes between it and the
next one, such as a normalisation, goes with it.

No clean rows are used. Poison among the other rows teaches the backdoor again.

Departures: epochs for steps; the optimiser is that of all trainings here; rows are not augmented.
Fresh weights are the caller's: of a text model they are the public encoder's with a new head. The
published code counts the blocks of a wide residual network; this counts its layers, of which a
block has two or three (k of 5 and 13 there is 10 and 28 here).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.bundle import B
from backdoor_pipeline.modelling.training import OptimisationParams, fit
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveInt

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.training import Labelled

MATRIX = 2  # dimensions of the weight that makes a module a layer


class RetrainingParams(ParameterGroup):
    """Whether weights are fresh (EU) or kept (CF), how many layers are trained, and how.

    ``last_layers`` is k; None: all.
    """

    fresh_weights: bool
    last_layers: PositiveInt | None
    optimisation: OptimisationParams


def unlearn(
    bundle: B,
    forget: Labelled,
    retain: Labelled,
    params: RetrainingParams,
    compute: ComputeParams,
    seed: int,
    fresh: Callable[[], B] | None = None,
) -> tuple[B, dict[str, Any]]:
    """A copy of ``bundle``, trained again; ``bundle`` itself where there is nothing to forget.

    Args:
        bundle: The victim; unchanged.
        forget: The rows to forget: they are left out, and otherwise not looked at.
        retain: The other training rows; poison may be left among them.
        params: See ``conf/base/parameters_unlearn.yml``.
        compute: Device and precision.
        seed: Draws the batches.
        fresh: Makes a model of the same architecture as it was before its training; needed where
            ``params.fresh_weights`` is set.

    Returns:
        The model, and what was done: ``steps``, ``trained_parameters``, ``forget_rows`` and
        ``retain_rows``.

    Raises:
        InputError: There are no other rows, the model has fewer layers than are to be trained, or
            the training diverged.
    """
    if not len(forget.labels):
        return bundle, {"steps": 0, "trained_parameters": 0, "forget_rows": 0, "dev_rows": 0}
    if not len(retain.labels):
        raise InputError(
            f"all {len(forget.labels):,} training rows are to be forgotten, so that none is left "
            "to train on; let the detector flag fewer"
        )
    model = copy.deepcopy(bundle.model).requires_grad_(True)
    trained = last_layers(model, params.last_layers)
    if params.fresh_weights:
        if fresh is None:
            raise ValueError("fresh_weights needs `fresh`, which makes them")
        _copy(fresh().model, model, trained)
    frozen = freeze(model, trained)

    def hold(_step: int) -> None:
        for module in frozen:
            module.eval()

    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    result = bundle._replace(model=model)
    history = fit(result, retain, None, params.optimisation, compute, seed, "retrain", on_step=hold)
    model.requires_grad_(True)
    return result, {
        "steps": len(history["loss"]["step"]),
        "trained_parameters": n_trained,
        "forget_rows": len(forget.labels),
        "retain_rows": len(retain.labels),
        "dev_rows": 0,
    }


def last_layers(model: torch.nn.Module, k: int | None) -> set[str]:
    """The names of the modules of the last ``k`` layers; None: of all.

    Raises:
        InputError: There are fewer layers.
    """
    names = [name for name, _ in model.named_modules()]
    if k is None:
        return set(names)
    layers = [
        place
        for place, module in enumerate(model.modules())
        if getattr(getattr(module, "weight", None), "ndim", 0) >= MATRIX
    ]
    if k > len(layers):
        raise InputError(
            f"last_layers is {k}, but the model has {len(layers)} layers with weights; lower it, "
            "or set it to null for all layers"
        )
    return set(names[layers[-k] :])


def _copy(source: torch.nn.Module, target: torch.nn.Module, modules: set[str]) -> None:
    """Give the named modules of ``target`` the weights and statistics of those of ``source``."""
    given = source.state_dict()
    shapes = [{k: v.shape for k, v in state.items()} for state in (given, target.state_dict())]
    if shapes[0] != shapes[1]:
        raise ValueError("`fresh` makes a model of another architecture")
    chosen = {key: value for key, value in given.items() if key.rpartition(".")[0] in modules}
    target.load_state_dict(chosen, strict=False)


def freeze(model: torch.nn.Module, trained: set[str]) -> list[torch.nn.Module]:
    """Let no weight outside the named modules change; the modules that hold none of the named."""
    frozen = []
    for name, module in model.named_modules():
        if name in trained:
            continue
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
        within = f"{name}." if name else ""
        if not any(other.startswith(within) for other in trained):
            frozen.append(module)
    return frozen
