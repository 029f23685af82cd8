"""A model whose parameters are dampened where they matter more for the rows to forget.

Sources: "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening", arXiv
2308.07707 (SSD); ASSD, arXiv 2402.10098; LF, arXiv 2402.19308; XLF, arXiv 2406.09173. With I_f the
importances for the rows to forget and I_D those for the rows to keep,

    theta <- beta theta   where I_f / I_D > alpha,   beta = min(lambda I_D / I_f, 1).

SSD is told alpha. The adaptive methods take the p-th percentile of the ratios I_f / I_D over all
parameters, where F are the rows to forget and D those to keep:

    p = 100 - ln(1 + 100 |F| / (|F| + |D|)),   lambda = 1

Where I_D is 0, the ratio is infinite, or, if I_f is 0 as well, there is none. The percentile is
that of the finite ratios. Infinite ones are above any alpha, and these parameters become 0, as in
the published code; here they are counted.

Where I_D is measured on some of the rows to keep, which is ours, it is too uncertain for parameters
that few rows need, as embeddings of rare words: a word of one row to forget that is in none of 500
others need not be rarer there. Where not all drawn rows need a parameter, I_D is raised by what
``UNSEEN`` rows more would make of it.
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.bundle import B
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveFloat
from backdoor_pipeline.pipelines.unlearn import importances
from backdoor_pipeline.pipelines.unlearn.importances import ImportanceParams

if TYPE_CHECKING:
    import torch

    from backdoor_pipeline.modelling.bundle import Bundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.training import Labelled

UNSEEN = 3  # if none of n rows has something, at most 3 in n of all have, with 95 % confidence


class DampeningParams(ParameterGroup):
    """The importances and the step; ``alpha`` null: by the percentile."""

    importances: ImportanceParams
    alpha: PositiveFloat | None
    lambda_: PositiveFloat


def unlearn(
    bundle: B,
    forget: Labelled,
    retain: Labelled,
    params: DampeningParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[B, dict[str, Any]]:
    """A dampened copy of ``bundle``; ``bundle`` itself where there is nothing to forget.

    Args:
        bundle: The victim; unchanged.
        forget: The rows to forget, with the labels they were given.
        retain: The other training rows; poison may be left among them.
        params: See ``conf/base/parameters_unlearn.yml``.
        compute: Device and precision.
        seed: Draws rows and batches.

    Returns:
        The model, and what was done: ``alpha``, ``percentile`` (None where alpha was told),
        ``dampened_parameters``, their ``share`` of all, ``zero_importance_parameters``, those of
        them that became 0 because I_D is 0, and ``forget_rows``.

    Raises:
        InputError: There are no rows to keep, or nothing matters for them.
    """
    if not len(forget.labels):
        return bundle, {"forget_rows": 0, "dampened_parameters": 0, "dev_rows": 0}
    ranking = rank(bundle, forget, retain, params.importances, compute, seed)
    place, alpha = None, params.alpha
    if alpha is None:
        place = percentile(len(forget.labels) / (len(forget.labels) + len(retain.labels)))
        alpha = ranking.alpha(place)
    dampened = bundle._replace(model=copy.deepcopy(bundle.model))
    count = ranking.count(alpha, params.lambda_)
    ranking.dampen(dampened.model, 0, count, params.lambda_)
    return dampened, {
        "alpha": alpha,
        "percentile": place,
        **ranking.summary(count),
        "forget_rows": len(forget.labels),
        "dev_rows": 0,
    }


def percentile(share: float) -> float:
    """p = 100 - ln(1 + 100 share), at least 0."""
    return max(100 - math.log1p(100 * share), 0.0)


def rank(
    bundle: Bundle,
    forget: Labelled,
    retain: Labelled,
    params: ImportanceParams,
    compute: ComputeParams,
    seed: int,
    lowering: bool = False,
    stand_for: Labelled | None = None,
) -> Ranking:
    """The parameters of ``bundle.model`` by their ratios; arguments as of ``unlearn``.

    With ``lowering``, which is ours, parameters whose dampening would raise the quantity for the
    rows to forget come last: those where theta times its mean gradient is not above 0. Rows of
    ``retain`` that ``stand_for`` all of it are measured instead of it.

    Raises:
        InputError: There are no rows to keep, or nothing matters for them.
    """
    measured = retain if stand_for is None else stand_for
    kept, forgotten = (
        importances.measure(bundle, rows, params, compute, seed, f"importances for the rows {what}")
        for rows, what in ((measured, "to keep"), (forget, "to forget"))
    )
    n_measured = min(len(measured.labels), params.rows or len(measured.labels))
    of_kept = kept.importances
    if n_measured < len(retain.labels):
        of_kept = bounded(kept, forgotten.largest, n_measured)
    every = ratios(forgotten.importances, of_kept)
    if lowering:
        every = every.where(lowers(bundle.model, forgotten.gradients) | every.isnan(), 0)
    return Ranking(every)


def bounded(
    kept: importances.Measured, largest: importances.Tensors, n_rows: int
) -> importances.Tensors:
    """I_D of ``kept``, higher where it may be too low because few rows need the parameter.

    Args:
        kept: Measured on some of the rows to keep.
        largest: How much each parameter matters for the row to forget that needs it most; so much,
            it is assumed, for each row to keep that needs it.
        n_rows: How many rows ``kept`` was measured on.
    """
    return {
        name: measured.where(kept.smallest[name] > 0, measured + UNSEEN / n_rows * largest[name])
        for name, measured in kept.importances.items()
    }


def ratios(forgotten: importances.Tensors, kept: importances.Tensors) -> torch.Tensor:
    """I_f / I_D of all parameters, one tensor after the other, float32, (n_parameters,).

    It is infinite where only I_D is 0, and not a number where both are.
    """
    import torch

    return torch.cat([(forgotten[name] / kept[name]).flatten() for name in forgotten])


def lowers(model: torch.nn.Module, gradients: importances.Tensors) -> torch.Tensor:
    """Which parameters, dampened, lower what ``gradients`` are of, bool, (n_parameters,)."""
    import torch

    thetas = dict(model.named_parameters())
    products = (gradient * thetas[name].detach() for name, gradient in gradients.items())
    return torch.cat([product.flatten() > 0 for product in products])


class Ranking:
    """Parameters from the highest ratio I_f / I_D down; a higher alpha dampens a part of them.

    beta does not depend on alpha. So those that alpha dampens are the first ones of this ranking,
    and a lower alpha only adds to them.

    Args:
        ratios: As of the function of this name.

    Raises:
        InputError: None of them is finite.
    """

    def __init__(self, ratios: torch.Tensor) -> None:
        self._n_infinite = int(ratios.isinf().sum())
        self._n_ranked = len(ratios) - int(ratios.isnan().sum())
        if self._n_infinite == self._n_ranked:
            raise InputError(
                "no parameter has an importance above 0 for the rows to keep; measure another "
                "quantity (xlf), or more rows"
            )
        lowest_last = ratios.where(~ratios.isnan(), -1)
        self._values, self._order = lowest_last.sort(descending=True)

    def alpha(self, place: float) -> float:
        """The percentile at ``place``, from 0 to 100, of the finite ratios, as numpy has it."""
        exact = (self._n_ranked - self._n_infinite - 1) * (place / 100)
        below = self._n_ranked - 1 - math.floor(exact)
        above = max(below - 1, self._n_infinite)
        low, high = self._values[below].item(), self._values[above].item()
        return low + (high - low) * (exact - math.floor(exact))

    def count(self, alpha: float, lambda_: float) -> int:
        """How many parameters change: their ratio is above alpha, and their beta below 1."""
        bound = max(alpha, lambda_)
        return bisect_left(
            range(self._n_ranked), True, key=lambda i: self._values[i].item() <= bound
        )

    def dampen(self, model: torch.nn.Module, start: int, end: int, lambda_: float) -> None:
        """Multiply parameters ``start`` to ``end`` of this ranking by their beta, in place."""
        import torch

        chosen, order = self._order[start:end].sort()
        betas = lambda_ / self._values[start:end][order]
        tensors = [torch.atleast_1d(parameter.detach()) for parameter in model.parameters()]
        ends = torch.tensor([t.numel() for t in tensors], device=chosen.device).cumsum(dim=0)
        cuts = torch.searchsorted(chosen, ends[:-1]).tolist()
        parts = (ends.tolist(), chosen.tensor_split(cuts), betas.tensor_split(cuts))
        for tensor, end_of_tensor, own, beta in zip(tensors, *parts, strict=True):
            if len(own):
                within = own - (end_of_tensor - tensor.numel())
                tensor[torch.unravel_index(within, tensor.shape)] *= beta

    def summary(self, count: int) -> dict[str, Any]:
        """What is recorded of a model whose first ``count`` parameters were dampened."""
        return {
            "dampened_parameters": count,
            "share": count / len(self._order),
            "zero_importance_parameters": min(count, self._n_infinite),
        }
