"""A student that follows one teacher on the rows to keep and leaves one on the rows to forget.

The student starts as the victim, and the victim as it was is the teacher for the rows to keep. With
the logits s of the student and t of a teacher, C classes, and means over the rows of a batch:

* SCRUB ("Towards Unbounded Machine Unlearning", NeurIPS 2023, arXiv 2302.09880) goes alternately
  over the rows to forget, where it minimises -L, and over those to keep, where it minimises L; the
  victim is the teacher for both:

      L = cross-entropy of s + alpha T^2 KL(softmax(t / T) || softmax(s / T))

  It goes over the rows to forget as long as fewer than ``ascent_steps`` steps were made in all.
  There the divergence is driven up as well.
* Bad teaching ("Can Bad Teaching Induce Forgetting?", AAAI 2023, arXiv 2205.08096) goes over all
  rows together. The teacher for the rows to forget is incompetent, a fresh model:

      L = KL(softmax(t / T) || softmax(s / T)) / C

Both are told as the baselines of "Potion: Towards Poison Unlearning", arXiv 2406.09173. No clean
rows are used.

Departures: epochs for steps; the optimiser is that of all trainings here; rows are not augmented.
The rows to forget pass batch normalisation by its running statistics and leave these alone: they
are those of the rows to keep, and a single row has none. In bad teaching every batch has its share
of the rows to forget, where in the published code chance decides.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.bundle import B
from backdoor_pipeline.modelling.device import autocast, resolve_device
from backdoor_pipeline.modelling.objectives import cross_entropy
from backdoor_pipeline.modelling.progress import track
from backdoor_pipeline.modelling.training import (
    OptimisationParams,
    clip_gradients,
    descend,
    learning_rates,
    new_optimiser,
)
from backdoor_pipeline.parameter_group import (
    Count,
    NonNegativeFloat,
    ParameterGroup,
    PositiveFloat,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.training import Labelled

    Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class ScrubParams(ParameterGroup):
    """The loss of SCRUB, how long it goes over the rows to forget, and how it is minimised."""

    alpha: NonNegativeFloat
    temperature: PositiveFloat
    ascent_steps: Count
    optimisation: OptimisationParams


class BadTeachingParams(ParameterGroup):
    """The loss of bad teaching, and how it is minimised."""

    temperature: PositiveFloat
    optimisation: OptimisationParams


class _Side(NamedTuple):
    """The rows to forget, or those to keep.

    Attributes:
        rows: With their labels.
        teacher: For them.
        loss: From the logits of the student and of the teacher and the labels to a mean.
    """

    rows: Labelled
    teacher: torch.nn.Module
    loss: Loss


def unlearn(
    bundle: B,
    forget: Labelled,
    retain: Labelled,
    params: ScrubParams | BadTeachingParams,
    compute: ComputeParams,
    seed: int,
    fresh: Callable[[], B] | None = None,
) -> tuple[B, dict[str, Any]]:
    """The student, by the method of ``params``; ``bundle`` itself if there is nothing to forget.

    Args:
        bundle: The victim; unchanged.
        forget: The rows to forget, with the labels they were given.
        retain: The other training rows; poison may be left among them.
        params: See ``conf/base/parameters_unlearn.yml``.
        compute: Device and precision.
        seed: Draws the batches.
        fresh: Makes a model as the victim was before its training; needed for bad teaching.

    Returns:
        The model, and what was done: ``steps``, ``ascent_steps``, those of them over the rows to
        forget alone, ``forget_rows`` and ``retain_rows``.

    Raises:
        InputError: There are no rows to keep, or the training diverged.
    """
    import torch

    if not len(forget.labels):
        return bundle, {"steps": 0, "ascent_steps": 0, "forget_rows": 0, "dev_rows": 0}
    if not len(retain.labels):
        raise InputError(
            f"all {len(forget.labels):,} training rows are to be forgotten, so that none is left "
            "to keep; let the detector flag fewer"
        )
    device = resolve_device(compute)
    student, competent = copy.deepcopy(bundle.model), _teacher(bundle.model, device)
    if isinstance(params, ScrubParams):
        keep = partial(scrub, alpha=params.alpha, temperature=params.temperature)
        sides = _Side(forget, competent, _negative(keep)), _Side(retain, competent, keep)
        passes = scrub_passes(forget, retain, params, seed)
    else:
        if fresh is None:
            raise ValueError("bad teaching needs `fresh`, which makes the incompetent teacher")
        incompetent = _teacher(fresh().model, device)
        follow = partial(bad_teaching, temperature=params.temperature)
        sides = _Side(forget, incompetent, follow), _Side(retain, competent, follow)
        passes = bad_teaching_passes(forget, retain, params, seed)
    student.to(device).train().requires_grad_(True)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        _follow(student, sides, passes, params.optimisation, compute)
    return bundle._replace(model=student.eval()), {
        "steps": sum(map(len, passes)),
        "ascent_steps": sum(len(one) for one in passes if one[0].max() < len(forget.labels)),
        "forget_rows": len(forget.labels),
        "retain_rows": len(retain.labels),
        "dev_rows": 0,
    }


def scrub(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    alpha: float,
    temperature: float,
) -> torch.Tensor:
    """L of SCRUB, in nats, a scalar.

    Args:
        student: Logits, shape (n_rows, n_classes).
        teacher: Logits, likewise.
        labels: Shape (n_rows,), int64.
        alpha: Weight of the divergence.
        temperature: T.
    """
    divergence = _divergence(student, teacher, temperature)
    return cross_entropy(student, labels) + alpha * temperature**2 * divergence


def bad_teaching(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float
) -> torch.Tensor:
    """L of bad teaching, in nats, a scalar; arguments as of ``scrub``, labels not looked at."""
    return _divergence(student, teacher, temperature) / student.shape[1]


def _divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """The mean of KL(softmax(t / T) || softmax(s / T)) over the rows."""
    import torch

    return torch.nn.functional.kl_div(
        (student / temperature).log_softmax(dim=1),
        (teacher / temperature).log_softmax(dim=1),
        reduction="batchmean",
        log_target=True,
    )


def scrub_passes(
    forget: Labelled, retain: Labelled, params: ScrubParams, seed: int
) -> list[list[np.ndarray]]:
    """Row numbers of every batch of every pass; rows to keep come after those to forget."""
    rng, batch_size = np.random.default_rng(seed), params.optimisation.batch_size
    passes: list[list[np.ndarray]] = []
    for _ in range(params.optimisation.epochs):
        if sum(map(len, passes)) < params.ascent_steps:
            passes.append(forget.inputs.batches(batch_size, rng))
        kept = retain.inputs.batches(batch_size, rng)
        passes.append([rows + len(forget.labels) for rows in kept])
    return passes


def bad_teaching_passes(
    forget: Labelled, retain: Labelled, params: BadTeachingParams, seed: int
) -> list[list[np.ndarray]]:
    """The same; every batch has its share of the rows to forget."""
    rng, n_forget, n_retain = np.random.default_rng(seed), len(forget.labels), len(retain.labels)
    share = n_retain / (n_forget + n_retain)
    n_kept = max(1, round(share * params.optimisation.batch_size))
    passes = []
    for _ in range(params.optimisation.epochs):
        kept = retain.inputs.batches(n_kept, rng)
        forgotten = np.array_split(rng.permutation(n_forget), len(kept))
        passes.append(
            [np.concatenate([f, k + n_forget]) for f, k in zip(forgotten, kept, strict=True)]
        )
    return passes


def _follow(
    student: torch.nn.Module,
    sides: tuple[_Side, _Side],
    passes: list[list[np.ndarray]],
    params: OptimisationParams,
    compute: ComputeParams,
) -> None:
    """Train ``student`` in place; of the row numbers, the first are those of the first side."""
    import torch

    device = resolve_device(compute)
    optimiser = new_optimiser(student, params, device)
    factor = partial(learning_rates, params=params, n_steps=sum(map(len, passes)))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    n_forget = len(sides[0].rows.labels)

    def loss_of(batch: np.ndarray) -> torch.Tensor:
        first = batch < n_forget
        losses = [
            len(rows) / len(batch) * _loss(student, side, rows, side is sides[0], compute)
            for side, rows in zip(sides, (batch[first], batch[~first] - n_forget), strict=True)
            if len(rows)
        ]
        return torch.stack(losses).sum()

    clip = partial(clip_gradients, student, params)
    for number, batches in enumerate(passes, start=1):
        what = f"distil, pass {number} of {len(passes)}"
        losses = descend(optimiser, track(batches, what), loss_of, clip, scheduler.step)
        if not losses[-1].isfinite():
            raise InputError(
                f"{what}: the loss is {losses[-1].item()}, the training has diverged; lower its "
                f"learning_rate ({params.learning_rate:g}) or its ascent_steps, or set its "
                "max_gradient_norm"
            )


def _loss(
    student: torch.nn.Module,
    side: _Side,
    rows: np.ndarray,
    by_running_statistics: bool,
    compute: ComputeParams,
) -> torch.Tensor:
    """The mean loss of some rows of a side."""
    import torch

    device = resolve_device(compute)
    batch = side.rows.inputs.collate(rows, device)  # once: student and teacher see the same
    labels = torch.from_numpy(side.rows.labels[rows].astype(np.int64)).to(device)
    with torch.no_grad(), autocast(compute, device):
        teacher = side.teacher(**batch).logits.float()
    hold = running_statistics(student) if by_running_statistics else nullcontext()
    with hold, autocast(compute, device):
        logits = student(**batch).logits.float()
    return side.loss(logits, teacher, labels)


@contextmanager
def running_statistics(model: torch.nn.Module) -> Iterator[None]:
    """Within, batch normalisation in ``model`` uses its running statistics and keeps them."""
    import torch

    kind = torch.nn.modules.batchnorm._BatchNorm
    layers = [layer for layer in model.modules() if isinstance(layer, kind) and layer.training]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()


def _teacher(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    return copy.deepcopy(model).to(device).eval().requires_grad_(False)


def _negative(loss: Loss) -> Loss:
    return lambda *given: -loss(*given)
