"""A model dampened just as much as it takes to forget the poison that was discovered.

Source: "Potion: Towards Poison Unlearning", DMLR 2024, arXiv 2406.09173, whose search is PTN. The
importances are measured once, on the victim. With F the discovered rows, D the other training rows
and acc the share of F that has its (poisoned) label predicted,

    s = 1/25 |F| / (|F| + |D|), growth s, growth^2 s, ...   (growth published: 1.1)
    alpha = the percentile 100 - ln(1 + 100 s) of the ratios I_f / I_D
    theta' = the victim's parameters, dampened by alpha and lambda = 1 (see ``dampening``)

until acc(theta') <= rho acc(theta). As beta does not depend on s, each try only adds parameters to
the one before, which is what is done here; the results are those of the definition, as is that of a
try that adds none, which is not evaluated again. Rows are not augmented. If no try gets there, the
result is the first model whose acc fell nearly as far as the lowest (``NEARLY``), or the victim if
it fell in none (published: that of the last try).

Seven settings are ours, and make the base settings; published is the other value of each:

* ``start: one_sample`` starts from s = 1/25 1 / (|F| + |D|), because fewer parameters are enough
  with importances by ``per_sample``, and the published start may be too far for large F.
* ``lowering`` leaves out the parameters whose dampening would raise the norm of the logits of F.
* ``balanced`` measures I_D on as many rows with the discovered label as with others. Among all
  rows the label is rare, so that what its class needs looks like what the trigger needs.
* ``criterion: probability`` takes for acc the mean probability of the given labels, which a single
  row has as well, and falls before the prediction changes. Poison that was drawn from all classes
  has, in one row of as many as there are classes, its true label, and keeps it: so many of F, and a
  standard deviation more, the most probable ones, do not count.
* ``max_loss`` is how much of the accuracy on rows of D with other labels may be lost, by a few
  hundred of them: the search ends before.
* ``max_label_loss`` is how much of that on rows of D with the discovered label may be lost, because
  rows that were of the target's class anyway would take the class with them; twice as much, if
  ``FEW`` rows or more were discovered, because undiscovered poison is among them and should change.
* ``repair`` trains the result on (``repair``).

``balanced`` and ``repair`` need ``FEW`` discovered rows: with fewer, undiscovered poison is not
told from the other rows of its label well enough. The discovered label is the commonest in F.
"""

from __future__ import annotations

import copy
import logging
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from backdoor_pipeline.modelling.bundle import B
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.training import Labelled, accuracy
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveInt, Share
from backdoor_pipeline.pipelines.unlearn.dampening import Ranking, percentile, rank
from backdoor_pipeline.pipelines.unlearn.importances import ImportanceParams
from backdoor_pipeline.pipelines.unlearn.repair import RepairParams, repair

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.bundle import Bundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.training import History

logger = logging.getLogger(__name__)

START = 25  # of the share of the rows to forget, one part in this many
LAMBDA = 1.0
KEPT_ROWS = 1000  # of the rows to keep, whose accuracy is watched, and for the repair
FEW = 5  # rows to forget
NEARLY = 0.99  # of the deepest fall that a search without success has found


class TriggerSearchParams(ParameterGroup):
    """The importances, how the search starts and goes on, where it ends, and what comes after."""

    importances: ImportanceParams
    lowering: bool
    balanced: bool
    criterion: Literal["accuracy", "probability"]
    rho: Share
    max_loss: Share | None
    max_label_loss: Share | None
    start: Literal["published", "one_sample"]
    growth: Annotated[float, Field(gt=1, allow_inf_nan=False)]
    max_steps: PositiveInt
    repair: RepairParams | None


class Step(NamedTuple):
    """One try and what came of it; number 0 is the victim.

    Attributes:
        number: From 1 on.
        percentile: Of the ratios, above which parameters are dampened.
        dampened: How many these are.
        remaining: What is left of the discovered labels, see ``remaining``.
    """

    number: int
    percentile: float | None
    dampened: int
    remaining: float


class Found(NamedTuple):
    """What a search has found.

    Attributes:
        steps: All of them, the victim's first.
        best: That of the result.
        kept: Accuracy of the result on rows to keep, by what they are.
        kept_before: Likewise of the victim.
    """

    steps: list[Step]
    best: Step
    kept: dict[str, float]
    kept_before: dict[str, float]


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
        The model; what was done: ``converged``, whether the search brought acc low enough,
        ``steps``, how many tries there were, ``step`` and ``percentile`` of the one that was taken
        (0 and None: none, it is the victim's copy), ``unassigned_rows``, to which the victim gives
        another label, ``forget_<criterion>_before`` all of it, ``_found`` by the search and
        ``_after`` the repair, of watched rows the accuracies ``kept_before`` and ``kept_after`` all
        of it, ``repair_rows``, and as ``dampening.unlearn`` has it; and the ``forget_<criterion>``
        and ``dampened_share`` of every try. If the victim gives none of the rows its label, there
        is no try, and it is the result.

    Raises:
        InputError: There are no rows to keep, nothing matters for them, or the repair diverged.
    """
    if not len(forget.labels):
        return bundle, {"forget_rows": 0, "steps": 0, "dampened_parameters": 0, "dev_rows": 0}, {}
    unassigned = unassigned_rows(bundle, forget, compute)
    record: dict[str, Any] = {
        "forget_rows": len(forget.labels),
        "unassigned_rows": unassigned,
        "dev_rows": 0,
    }
    if unassigned == len(forget.labels):
        return bundle, record | {"converged": False, "steps": 0, "dampened_parameters": 0}, {}
    few, label = are_few(forget), discovered_label(forget)
    measured = retain
    if params.balanced and not few:
        measured = balanced(retain, label, params.importances.rows, seed)
    ranking = rank(
        bundle, forget, retain, params.importances, compute, seed, params.lowering, measured
    )
    n_first = len(forget.labels) if params.start == "published" else 1
    share = n_first / (len(forget.labels) + len(retain.labels)) / START
    watched = retain.take(
        np.sort(np.random.default_rng(seed).permutation(len(retain.labels))[:KEPT_ROWS])
    )
    result, found = search(bundle, forget, watched, ranking, share, params, compute)
    criterion, best = f"forget_{params.criterion}", found.best
    left = best.remaining
    if params.repair is not None and not few and best.dampened:
        repaired = repair(result, forget, watched, label, params.repair, compute, seed)
        record["repair_rows"] = repaired.n_rows
        left = remaining(repaired.part, repaired.forget, params.criterion, compute)
        limits = limits_of(repaired.forget, repaired.kept, params)
        found = found._replace(kept=accuracies(repaired.part, limits, compute))
    record |= {
        "converged": reached(best, found.steps[0], params.rho),
        "steps": found.steps[-1].number,
        "step": best.number,
        "percentile": best.percentile,
        **ranking.summary(best.dampened),
        f"{criterion}_before": found.steps[0].remaining,
        f"{criterion}_found": best.remaining,
        f"{criterion}_after": left,
    }
    if found.kept:
        record |= {"kept_before": found.kept_before, "kept_after": found.kept}
        tell_loss(found, params)
    return result, record, curves(found.steps, ranking, criterion)


def unassigned_rows(bundle: Bundle, forget: Labelled, compute: ComputeParams) -> int:
    """To how many rows the model gives another label than they have; a warning, if to any."""
    n_rows = len(forget.labels)
    n_others = round((1 - accuracy(bundle, forget, compute)) * n_rows)
    if n_others:
        logger.warning(
            "the model gives %d of %d rows to forget another label than they have in the data: it "
            "does not know the trigger there, or they are not poisoned%s",
            *(n_others, n_rows),
            "; it stays as it is" if n_others == n_rows else "",
        )
    return n_others


def tell_loss(found: Found, params: TriggerSearchParams) -> None:
    """A warning, if more than ``max_label_loss`` of the discovered label's rows have lost it."""
    name = "discovered_label"
    if name not in found.kept or params.max_label_loss is None:
        return
    lost = 1 - found.kept[name] / (found.kept_before[name] or 1)
    if lost > params.max_label_loss:
        logger.warning(
            "of the other rows with the discovered label, %.0f %% are given another one now: they "
            "are poisoned too, or the class was forgotten with the trigger; see whether the rows "
            "to forget are all poisoned",
            100 * lost,
        )


def are_few(forget: Labelled) -> bool:
    """Whether fewer than ``FEW`` rows were discovered."""
    return len(forget.labels) < FEW


def discovered_label(forget: Labelled) -> int:
    """The commonest label of ``forget``, the lowest of equals."""
    return int(np.bincount(forget.labels).argmax())


def balanced(retain: Labelled, label: int, n_rows: int | None, seed: int) -> Labelled:
    """Rows of ``retain``, half of them with ``label``; all, if it has no others or none.

    Args:
        retain: The rows to draw from.
        label: Of the rows to forget.
        n_rows: How many at most; None: as many as there are.
        seed: Draws them.
    """
    rng, has_label = np.random.default_rng(seed), retain.labels == label
    sides = [rng.permutation(np.flatnonzero(side)) for side in (has_label, ~has_label)]
    half = min(*map(len, sides), *([] if n_rows is None else [n_rows // 2]))
    if not half:
        return retain
    return retain.take(np.sort(np.concatenate([side[:half] for side in sides])))


def search(
    bundle: B,
    forget: Labelled,
    watched: Labelled,
    ranking: Ranking,
    share: float,
    params: TriggerSearchParams,
    compute: ComputeParams,
) -> tuple[B, Found]:
    """The dampened copy of ``bundle``, and how it was found.

    Args:
        bundle: The victim; unchanged.
        forget: The rows whose labels it is to forget.
        watched: Rows to keep, for the limits.
        ranking: Of its parameters.
        share: s of the first step.
        params: Of the search.
        compute: Device and precision.
    """
    tried = _copied(bundle)
    steps = [Step(0, None, 0, remaining(bundle, forget, params.criterion, compute))]
    for number in range(1, params.max_steps + 1):
        place, before = percentile(share), steps[-1]
        count, value = ranking.count(ranking.alpha(place), LAMBDA), before.remaining
        if count > before.dampened:
            ranking.dampen(tried.model, before.dampened, count, LAMBDA)
            value = remaining(tried, forget, params.criterion, compute)
        steps.append(Step(number, place, count, value))
        if reached(steps[-1], steps[0], params.rho):
            best = steps[-1]
            break
        share *= params.growth
    else:
        falls = [steps[0].remaining - step.remaining for step in steps]
        best = next(s for s, fall in zip(steps, falls, strict=True) if fall >= NEARLY * max(falls))
        logger.warning(
            "no step of %d brought the %s of the labels to forget from %.3f to %.3g of it; step %d "
            "is taken, with %.3f",
            *(params.max_steps, params.criterion, steps[0].remaining, params.rho),
            *(best.number, best.remaining),
        )
    return _limited(bundle, limits_of(forget, watched, params), ranking, steps, best, compute)


def remaining(bundle: Bundle, forget: Labelled, criterion: str, compute: ComputeParams) -> float:
    """What is left of the labels of ``forget``: the accuracy, or their mean probability.

    For the probability, the most probable are left out: of n rows with C classes, n / C and the
    standard deviation of their number, sqrt(n (C - 1)) / C; never all.
    """
    if criterion == "accuracy":
        return accuracy(bundle, forget, compute)
    probabilities = predict(bundle, forget.inputs, compute)
    of_labels = np.sort(probabilities[np.arange(len(forget.labels)), forget.labels])
    n_rows, n_classes = probabilities.shape
    n_true = round((n_rows + math.sqrt(n_rows * (n_classes - 1))) / n_classes)
    return float(of_labels[: max(n_rows - n_true, 1)].mean())


def reached(step: Step, victim: Step, rho: float) -> bool:
    """Whether the search ends here: never before the first step, as published."""
    return step.number > 0 and step.remaining <= rho * victim.remaining


class Limit(NamedTuple):
    """Rows to keep, and the share of the victim's accuracy on them that may be lost."""

    rows: Labelled
    loss: float


def limits_of(forget: Labelled, watched: Labelled, params: TriggerSearchParams) -> dict[str, Limit]:
    """Those of ``params``, by whose rows of ``watched`` they are about."""
    discovered = watched.labels == discovered_label(forget)
    own_loss = params.max_label_loss
    if own_loss is not None and not are_few(forget):
        own_loss = min(2 * own_loss, 1.0)
    asked = {
        "other_labels": (~discovered, params.max_loss),
        "discovered_label": (discovered, own_loss),
    }
    return {
        name: Limit(watched.take(np.flatnonzero(chosen)), loss)
        for name, (chosen, loss) in asked.items()
        if loss is not None and chosen.any()
    }


def accuracies(
    bundle: Bundle, limits: dict[str, Limit], compute: ComputeParams
) -> dict[str, float]:
    """Of each limit's rows."""
    return {name: accuracy(bundle, limit.rows, compute) for name, limit in limits.items()}


def _limited(
    bundle: B,
    limits: dict[str, Limit],
    ranking: Ranking,
    steps: list[Step],
    best: Step,
    compute: ComputeParams,
) -> tuple[B, Found]:
    """The last step up to ``best`` at which no limit is passed.

    By bisection, which takes it that a limit once passed is passed by all later steps.
    """
    before = accuracies(bundle, limits, compute)

    def tried(step: Step) -> tuple[B, Found]:
        model = _dampened(bundle, ranking, step)
        return model, Found(steps, step, accuracies(model, limits, compute), before)

    def is_allowed(found: Found) -> bool:
        return all(
            found.kept[name] >= (1 - limit.loss) * before[name] for name, limit in limits.items()
        )

    result = tried(best)
    if not is_allowed(result[1]):
        result = _copied(bundle), Found(steps, steps[0], before, before)
        forbidden = best.number
        while forbidden - result[1].best.number > 1:
            candidate = tried(steps[(result[1].best.number + forbidden) // 2])
            if is_allowed(candidate[1]):
                result = candidate
            else:
                forbidden = candidate[1].best.number
        logger.warning(
            "step %d is the last of %d that costs no more of the accuracy on rows to keep than "
            "allowed",
            *(result[1].best.number, best.number),
        )
    return result


def _copied(bundle: B) -> B:
    return bundle._replace(model=copy.deepcopy(bundle.model))


def _dampened(bundle: B, ranking: Ranking, step: Step) -> B:
    result = _copied(bundle)
    ranking.dampen(result.model, 0, step.dampened, LAMBDA)
    return result


def curves(steps: list[Step], ranking: Ranking, criterion: str) -> History:
    """Of every step, what remains by ``criterion``, and the share of dampened parameters."""
    numbers: list[float] = [step.number for step in steps]
    shares = [ranking.summary(step.dampened)["share"] for step in steps]
    return {
        criterion: {"step": numbers, "value": [step.remaining for step in steps]},
        "dampened_share": {"step": numbers, "value": shares},
    }
