"""The one training loop: fused AdamW, autocast, gradients clipped, one process or many."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.device import ComputeParams, autocast, resolve_device
from backdoor_pipeline.modelling.inputs import Inputs, read_by
from backdoor_pipeline.modelling.objectives import cross_entropy
from backdoor_pipeline.modelling.pixels import Augmentation
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.progress import track
from backdoor_pipeline.parameter_group import (
    NonNegativeFloat,
    ParameterGroup,
    PositiveFloat,
    PositiveInt,
    Share,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pandas as pd
    import torch

    from backdoor_pipeline.modelling.bundle import Bundle
    from backdoor_pipeline.modelling.objectives import Objective

logger = logging.getLogger(__name__)

History = dict[str, dict[str, list[float]]]
"""Per quantity its values and their optimiser steps: ``{"loss": {"step": […], "value": […]}}``."""


class OptimisationParams(ParameterGroup):
    """How a model is fitted.

    Attributes:
        epochs: Passes over the rows.
        learning_rate: The highest; see ``learning_rates``.
        batch_size: Rows.
        weight_decay: Of the optimiser.
        warmup_share: Of all steps, in which the learning rate rises linearly.
        max_gradient_norm: To which gradients are clipped; None: they are not.
        optimiser: AdamW, or stochastic gradient descent.
        momentum: Of sgd.
        decay_span: Of sgd: the learning rate falls so that it would be 0 after so many times the
            steps that there are; Potion's is 1.25, so that a fifth of it is left in the end.
    """

    epochs: PositiveInt
    learning_rate: PositiveFloat
    batch_size: PositiveInt
    weight_decay: NonNegativeFloat
    warmup_share: Share
    max_gradient_norm: PositiveFloat | None
    optimiser: Literal["adamw", "sgd"] = "adamw"
    momentum: Share = 0.0
    decay_span: PositiveFloat = 1.25


class TrainingParams(OptimisationParams):
    """How victim, reference and the models of an audit are trained.

    ``augmentation`` is of images alone, ``dropout`` of texts, and ``text_tower`` of pairs: whether
    it is trained as well.
    """

    dropout: Share | None
    num_workers: PositiveInt
    augmentation: Augmentation | None = None
    text_tower: Literal["frozen", "trained"] = "frozen"


class Labelled(NamedTuple):
    """What a model reads, and the labels (int64, shape (n_rows,))."""

    inputs: Inputs
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> Labelled:
        """The rows of these numbers, in this order."""
        return Labelled(self.inputs.take(rows), self.labels[rows])

    def joined(self, others: Labelled) -> Labelled:
        """These rows, then ``others``."""
        return Labelled(
            self.inputs.joined(others.inputs), np.concatenate([self.labels, others.labels])
        )


def labelled(rows: pd.DataFrame, bundle: Bundle, max_length: int) -> Labelled:
    """The content and ``label`` of ``rows``, as the model of ``bundle`` reads them."""
    return Labelled(read_by(bundle, rows, max_length), rows["label"].to_numpy())


def fit(
    bundle: Bundle,
    train: Labelled,
    dev: Labelled | None,
    params: OptimisationParams,
    compute: ComputeParams,
    seed: int,
    what: str = "train",
    on_gradients: Callable[[int], object] | None = None,
    on_step: Callable[[int], object] | None = None,
    objective: Objective = cross_entropy,
    loss: Objective = cross_entropy,
) -> History:
    """Train ``bundle.model`` in place and return its loss and dev-accuracy history.

    The loss is that of a batch, in nats: the mean cross-entropy, if nothing else is given. With
    another ``objective``, that is what is minimised, and the history has the loss nonetheless.

    ``on_gradients`` may change the gradients of a step before they are clipped; it is told the
    epoch, counted from 0. ``on_step`` is called before the first step and after each, with the
    number of steps made.

    With ``dev``, accuracy on it is measured after every epoch, and the model ends as it was after
    the best one (the earliest of equals). Under ``accelerate``/``torchrun`` every process takes its
    share of each step's batches, and after every epoch the running statistics of batch
    normalisation are those of the first: all end with the same model, and each returns the losses
    of its own batches.

    Raises:
        InputError: The training diverged; the message names the settings to change.
    """
    import torch

    device = resolve_device(compute)
    parallel = accelerator(device)
    model = bundle.model.to(device).train()  # type: ignore[arg-type]
    optimiser = new_optimiser(model, params, device)
    schedule = epoch_batches(train.inputs, params, seed, parallel.num_processes)
    n_steps = sum(len(epoch) // parallel.num_processes for epoch in schedule)
    factor = partial(learning_rates, params=params, n_steps=n_steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    wrapped, optimiser = parallel.prepare(model, optimiser)
    labels = torch.from_numpy(train.labels.astype(np.int64))
    losses: list[torch.Tensor] = []

    def minimised(rows: np.ndarray) -> torch.Tensor:
        batch = train.inputs.collate(rows, device)
        with autocast(compute, device):
            logits = wrapped(**batch).logits.float()
        given = labels[rows].to(device)
        losses.append(loss(logits.detach(), given))
        return objective(logits, given)

    def clip(epoch: int) -> None:
        if on_gradients is not None:
            on_gradients(epoch)
        if params.max_gradient_norm is not None:
            parallel.clip_grad_norm_(wrapped.parameters(), params.max_gradient_norm)

    def count() -> None:
        scheduler.step()
        if on_step is not None:
            on_step(scheduler.last_epoch)

    accuracies: list[tuple[int, float]] = []
    best: dict[str, torch.Tensor] = {}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed + parallel.process_index)
        if on_step is not None:
            on_step(0)
        for number, epoch in enumerate(schedule, start=1):
            mine = epoch[parallel.process_index :: parallel.num_processes]
            batches = track(mine, f"{what}, epoch {number} of {len(schedule)}")
            before_step = partial(clip, number - 1)
            descend(optimiser, batches, minimised, before_step, count)
            _share_buffers(model, parallel.num_processes)
            last = parallel.reduce(losses[-1], "mean")  # where one diverges, all stop
            if not last.isfinite():
                raise InputError(
                    f"{what}: the loss is {last.item()} after {len(losses)} steps, the "
                    f"training has diverged; lower its learning_rate ({params.learning_rate:g}) or "
                    "its max_gradient_norm, or set compute.precision=fp32"
                )
            if dev is not None:
                accuracies.append((len(losses), accuracy(bundle, dev, compute)))
                logger.info("%s: dev accuracy %.3f after epoch %d", what, accuracies[-1][1], number)
                if len(schedule) > 1 and accuracies[-1][1] > max(
                    (value for _, value in accuracies[:-1]), default=-1.0
                ):
                    best = {k: v.detach().clone() for k, v in model.state_dict().items()}
    if best:
        model.load_state_dict(best)
    model.eval()
    return _history(losses, accuracies)


def new_optimiser(
    model: torch.nn.Module, params: OptimisationParams, device: torch.device
) -> torch.optim.Optimizer:
    """The optimiser of the parameters of ``model`` that are trained."""
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    shared: dict[str, Any] = {
        "lr": params.learning_rate,
        "weight_decay": params.weight_decay,
        "fused": device.type in {"cpu", "cuda"},
    }
    if params.optimiser == "sgd":
        return torch.optim.SGD(trained, momentum=params.momentum, **shared)
    return torch.optim.AdamW(trained, **shared)


def learning_rates(step: int, params: OptimisationParams, n_steps: int) -> float:
    """The share of the highest learning rate in a step, counted from 0.

    After the warm-up it falls linearly: with AdamW to 0; with sgd as in Potion's code (arXiv
    2406.09173), see ``decay_span``.
    """
    warmup = round(params.warmup_share * n_steps)
    if params.optimiser == "sgd":
        return (
            (step + 1) / (warmup + 1)
            if step < warmup
            else max(0.0, 1 - (step - warmup) / (params.decay_span * n_steps))
        )
    return step / warmup if step < warmup else max(0.0, (n_steps - step) / max(1, n_steps - warmup))


def descend(
    optimiser: Any,
    batches: Iterable[np.ndarray],
    loss_of: Callable[[np.ndarray], torch.Tensor],
    before_step: Callable[[], object] | None = None,
    after_step: Callable[[], object] | None = None,
) -> list[torch.Tensor]:
    """One step of ``optimiser`` for each batch of rows; the losses, each without its graph.

    Args:
        optimiser: Of the trained parameters.
        batches: Row indices of each batch.
        loss_of: The loss of a batch.
        before_step: Is called when the gradients are there.
        after_step: Is called when the parameters have changed.
    """
    losses = []
    for rows in batches:
        loss = loss_of(rows)
        loss.backward()
        if before_step is not None:
            before_step()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        if after_step is not None:
            after_step()
    return losses


def clip_gradients(model: torch.nn.Module, params: OptimisationParams) -> None:
    """Scale the gradients down to ``params.max_gradient_norm``, if there is such a limit."""
    import torch

    if params.max_gradient_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), params.max_gradient_norm)


def epoch_batches(
    inputs: Inputs, params: OptimisationParams, seed: int, n_processes: int = 1
) -> list[list[np.ndarray]]:
    """Row indices of every batch of every epoch; ``n_processes`` divides their number."""
    rng = np.random.default_rng(seed)
    epochs = []
    for _ in range(params.epochs):
        batches = inputs.batches(params.batch_size, rng)
        while len(batches) % n_processes:
            batches.append(batches[len(batches) % n_processes - 1])
        epochs.append(batches)
    return epochs


def accuracy(bundle: Bundle, data: Labelled, compute: ComputeParams) -> float:
    """Share of rows whose most probable class is their label."""
    return float((predict(bundle, data.inputs, compute).argmax(axis=1) == data.labels).mean())


def accelerator(device: torch.device) -> Any:
    """Accelerate's view of the processes; precision is ours (``device.autocast``)."""
    from accelerate import Accelerator

    return Accelerator(cpu=device.type == "cpu", mixed_precision="no")


def _share_buffers(model: torch.nn.Module, n_processes: int) -> None:
    """Give every process the buffers of the first: each has statistics of its own batches."""
    from accelerate.utils import broadcast

    if n_processes > 1:
        for buffer in model.buffers():
            broadcast(buffer)


def _history(losses: list[torch.Tensor], accuracies: list[tuple[int, float]]) -> History:
    import torch

    history: History = {
        "loss": {
            "step": list(range(1, len(losses) + 1)),
            "value": [round(x, 5) for x in torch.stack(losses).tolist()] if losses else [],
        }
    }
    if accuracies:
        history["dev_accuracy"] = {
            "step": [step for step, _ in accuracies],
            "value": [value for _, value in accuracies],
        }
    return history
