"""Anti-backdoor learning: isolate the rows that are learnt too easily, then unlearn them.

Source: ABL, arXiv 2110.11571. With l the mean cross-entropy of a batch:

1. train on all rows while l is held near a level, by LGA or Flooding, so that only what is learnt
   at once, the backdoor, falls below it; the share of the rows with the lowest loss is isolated;
2. train on the other rows, by plain cross-entropy;
3. unlearn: ascend the loss of the isolated rows, that is, minimise -l, until l is above a ceiling.

    LGA       sign(l - gamma) l
    Flooding  |l - b| + b

For gamma = b the gradients of both are the same, sign(l - b) times that of l. So one ``level``
serves both.

Departures, for texts: AdamW with a linear schedule in each stage, and few epochs; the published
ascent has no ceiling and ends when its epochs do. Above ours no step is made, not even AdamW's of
past gradients. An early version of the published code isolated the rows of the *highest* loss; this
takes the lowest, as the paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from backdoor_pipeline.modelling.objectives import cross_entropy
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.training import fit
from backdoor_pipeline.parameter_group import Count, ParameterGroup, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    import torch

    from backdoor_pipeline.modelling.bundle import ModelBundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.objectives import Objective
    from backdoor_pipeline.modelling.training import History, Labelled, OptimisationParams


class AntiBackdoorParams(ParameterGroup):
    """How rows are isolated, and how they are unlearnt."""

    loss: Literal["lga", "flooding"]
    level: PositiveFloat
    isolation_epochs: PositiveInt
    isolation_share: Annotated[float, Field(ge=0, lt=1)]
    ascent_epochs: Count
    ascent_learning_rate: PositiveFloat
    ascent_ceiling: PositiveFloat | None


def lga(loss: torch.Tensor, level: float) -> torch.Tensor:
    """sign(l - level) l, local gradient ascent: below the level the loss is driven up again."""
    return (loss.detach() - level).sign() * loss


def flooding(loss: torch.Tensor, level: float) -> torch.Tensor:
    """|l - level| + level: the loss, mirrored where it is below the level."""
    return (loss - level).abs() + level


class Ascent:
    """Steps up the loss of a model's batches; none where the loss is above a ceiling.

    Args:
        loss: Of a batch, from its logits and labels.
        model: In training.
        ceiling: In nats; None: there is none.
    """

    def __init__(self, loss: Objective, model: torch.nn.Module, ceiling: float | None) -> None:
        self._loss, self._model, self._ceiling, self._reached = loss, model, ceiling, False

    def objective(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """-loss, which is to be minimised."""
        loss = self._loss(logits, labels)
        self._reached = self._ceiling is not None and loss.item() > self._ceiling
        return -loss

    def hold(self, _epoch: int) -> None:
        """Take the gradients away where the loss was above the ceiling: AdamW makes no step."""
        if self._reached:
            self._model.zero_grad(set_to_none=True)


LOSSES = {"lga": lga, "flooding": flooding}


def train(
    bundle: ModelBundle,
    rows: Labelled,
    dev: Labelled | None,
    params: AntiBackdoorParams,
    optimisation: OptimisationParams,
    compute: ComputeParams,
    seed: int,
    objective: Objective = cross_entropy,
) -> tuple[History, np.ndarray]:
    """Train ``bundle.model`` in place, in three stages; the history, and which rows were isolated.

    Args:
        bundle: The classifier.
        rows: All training rows; which of them are poisoned is not known.
        dev: Chooses the epoch of the second stage, if given.
        params: Of the isolation and of the ascent.
        optimisation: Of the second stage; the first differs in its epochs, the last in its epochs
            and learning rate.
        compute: Device and precision.
        seed: Draws the batches.
        objective: The loss l of a batch; its mean cross-entropy unless told.

    Returns:
        The history of the three stages, end to end, and numbers of rows, ascending, int64.
    """
    level = LOSSES[params.loss]

    def levelled(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return level(objective(logits, labels), params.level)

    first = optimisation.model_copy(update={"epochs": params.isolation_epochs})
    history = fit(bundle, rows, None, first, compute, seed, "isolate", objective=levelled)
    isolated, others = lowest(row_losses(bundle, rows, compute), params.isolation_share)
    kept = rows.take(others)
    rest = fit(bundle, kept, dev, optimisation, compute, seed, "defended", objective=objective)
    history = joined(history, rest)
    if len(isolated) and params.ascent_epochs:
        last = {"epochs": params.ascent_epochs, "learning_rate": params.ascent_learning_rate}
        ascent = optimisation.model_copy(update=last)
        chosen, up = rows.take(isolated), Ascent(objective, bundle.model, params.ascent_ceiling)
        unlearnt = fit(
            bundle, chosen, None, ascent, compute, seed, "unlearn", up.hold, objective=up.objective
        )
        history = joined(history, unlearnt)
    return history, isolated


def row_losses(bundle: ModelBundle, rows: Labelled, compute: ComputeParams) -> np.ndarray:
    """The cross-entropy of each row in evaluation mode, in nats, shape (n_rows,)."""
    probabilities = predict(bundle, rows.inputs, compute)[np.arange(len(rows.labels)), rows.labels]
    return -np.log(probabilities.clip(min=np.finfo(np.float32).tiny))


def lowest(losses: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows with the lowest losses, a ``share`` of all, and of the others.

    Of equals the earlier ones are taken. One row at least is left among the others.
    """
    order = np.argsort(losses, kind="stable")
    n_isolated = min(round(share * len(losses)), len(losses) - 1)
    return np.sort(order[:n_isolated]), np.sort(order[n_isolated:])


def joined(one: History, other: History) -> History:
    """The curves of two trainings, the steps of the second after those of the first."""
    n_steps = len(one["loss"]["step"])
    joined = dict(one)
    for quantity, curve in other.items():
        before = one.get(quantity, {"step": [], "value": []})
        joined[quantity] = {
            "step": [*before["step"], *(n_steps + step for step in curve["step"])],
            "value": [*before["value"], *curve["value"]],
        }
    return joined
