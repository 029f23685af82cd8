"""A model dampened just as much as it takes to forget the poison that was discovered.

Source: "Potion: Towards Poison Unlearning", DMLR 2024, arXiv 2406.09173, whose search is PTN. The
importances are measured once, on the victim. With F the discovered rows, D the other training rows
and acc the share of F that has its (poisoned) label predicted,

    s = 1/25 |F| / (|F| + |D|), 1.1 s, 1.21 s, ...
    alpha = the percentile 100 - ln(1 + 100 s) of the ratios I_f / I_D
    theta' = the victim's parameters, dampened by alpha and lambda = 1 (see ``dampening``)

until acc(theta') <= rho acc(theta). As beta does not depend on s, each try only adds parameters to
the one before, which is what is done here; the results are those of the definition, as is that of a
try that adds none, which is not evaluated again.

Departures: ``one_sample`` starts from s = 1/25 1 / (|F| + |D|), because fewer parameters are enough
with importances by ``per_sample``, and the published start may be too far for large F. Rows are not
augmented. If no try gets there, the result is the model of the lowest acc, the earliest of equals
and the victim among them (published: of the last try).
"""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from backdoor_pipeline.modelling.bundle import B
from backdoor_pipeline.modelling.training import accuracy
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveInt, Share
from backdoor_pipeline.pipelines.unlearn.dampening import Ranking, percentile, rank
from backdoor_pipeline.pipelines.unlearn.importances import ImportanceParams

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.training import History, Labelled

logger = logging.getLogger(__name__)

START = 25  # of the share of the rows to forget, one part in this many
LAMBDA = 1.0


class TriggerSearchParams(ParameterGroup):
    """The importances, how the search starts and goes on, and where it ends."""

    importances: ImportanceParams
    rho: Share
    start: Literal["published", "one_sample"]
    growth: Annotated[float, Field(gt=1, allow_inf_nan=False)]
    max_steps: PositiveInt


class Step(NamedTuple):
    """One try and what came of it; number 0 is the victim."""

    number: int
    percentile: float | None
    dampened: int
    accuracy: float


def unlearn(
    bundle: B,
    forget: Labelled,
    retain: Labelled,
    params: TriggerSearchParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[B, dict[str, Any], History]:
    """A copy of ``bundle`` without the trigger; ``bundle`` itself where there is nothing to forget.

    Args:
        bundle: The victim; unchanged.
        forget: The discovered poison, with the labels it was given.
        retain: The other training rows; undiscovered poison may be among them.
        params: See ``conf/base/parameters_unlearn.yml``.
        compute: Device and precision.
        seed: Draws rows and batches.

    Returns:
        The model; what was done: ``converged``, whether acc fell low enough, ``steps``, how many
        tries there were, ``percentile``, of the model returned (None: it is the victim's copy),
        ``forget_accuracy_before`` and ``_after``, and as ``dampening.unlearn`` has it; and the
        ``forget_accuracy`` and ``dampened_share`` of every try.

    Raises:
        InputError: There are no rows to keep, or nothing matters for them.
    """
    if not len(forget.labels):
        return bundle, {"forget_rows": 0, "steps": 0, "dampened_parameters": 0, "dev_rows": 0}, {}
    ranking = rank(bundle, forget, retain, params.importances, compute, seed)
    n_first = len(forget.labels) if params.start == "published" else 1
    share = n_first / (len(forget.labels) + len(retain.labels)) / START
    result, steps, best = search(bundle, forget, ranking, share, params, compute)
    record = {
        "converged": reached(best, steps[0], params.rho),
        "steps": steps[-1].number,
        "percentile": best.percentile,
        **ranking.summary(best.dampened),
        "forget_accuracy_before": steps[0].accuracy,
        "forget_accuracy_after": best.accuracy,
        "forget_rows": len(forget.labels),
        "dev_rows": 0,
    }
    return result, record, curves(steps, ranking)


def search(
    bundle: B,
    forget: Labelled,
    ranking: Ranking,
    share: float,
    params: TriggerSearchParams,
    compute: ComputeParams,
) -> tuple[B, list[Step], Step]:
    """The dampened copy of ``bundle``, all steps, the victim's first, and which the copy is of.

    Args:
        bundle: The victim; unchanged.
        forget: The rows whose labels it is to forget.
        ranking: Of its parameters.
        share: s of the first step.
        params: Of the search.
        compute: Device and precision.
    """
    tried = bundle._replace(model=copy.deepcopy(bundle.model))
    steps = [Step(0, None, 0, accuracy(bundle, forget, compute))]
    for number in range(1, params.max_steps + 1):
        place, before = percentile(share), steps[-1]
        count, value = ranking.count(ranking.alpha(place), LAMBDA), before.accuracy
        if count > before.dampened:
            ranking.dampen(tried.model, before.dampened, count, LAMBDA)
            value = accuracy(tried, forget, compute)
        steps.append(Step(number, place, count, value))
        if reached(steps[-1], steps[0], params.rho):
            return tried, steps, steps[-1]
        share *= params.growth
    best = min(steps, key=lambda step: step.accuracy)
    logger.warning(
        "no step of %d brought the accuracy on the rows to forget from %.3f to %.3g of it; the "
        "lowest, %.3f, is that of step %d",
        *(params.max_steps, steps[0].accuracy, params.rho, best.accuracy, best.number),
    )
    result = bundle._replace(model=copy.deepcopy(bundle.model))
    ranking.dampen(result.model, 0, best.dampened, LAMBDA)
    return result, steps, best


def reached(step: Step, victim: Step, rho: float) -> bool:
    """Whether the search ends here: never before the first step, as published."""
    return step.number > 0 and step.accuracy <= rho * victim.accuracy


def curves(steps: list[Step], ranking: Ranking) -> History:
    """Of every step, the accuracy on the rows to forget and the share of dampened parameters."""
    numbers: list[float] = [step.number for step in steps]
    shares = [ranking.summary(step.dampened)["share"] for step in steps]
    return {
        "forget_accuracy": {"step": numbers, "value": [step.accuracy for step in steps]},
        "dampened_share": {"step": numbers, "value": shares},
    }
