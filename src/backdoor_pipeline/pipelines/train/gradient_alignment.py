"""Gradients of possibly poisoned rows, turned towards those of a few clean rows.

For each trained tensor, with g its gradient on the batch and c its gradient on a batch of clean
rows, the ``rule`` says what takes the place of g.

``span``, which is ours: the projection of g on the space that the last ``memory`` clean gradients
c_1..c_K of the tensor span, and the present one ``clean_weight`` times. What only a trigger would
teach lies outside that space, for the most part, and is dropped; what clean rows could teach is
learnt from all rows, of which there are many more than clean ones. The second term holds fast what
the model says of clean rows, which a trigger inside that space would change.

    g_al = C^T (C C^T)^+ C g + clean_weight c           the rows of C are c_i / ||c_i||

``published``, of MuScleLoRA, arXiv 2402.12026, and its code:

    g_al = |g·c| / ||c||² c            the projection's length, always along +c

The gradient becomes g_al where the clean rows are not yet learnt (their loss is above
``minimum_loss`` and the mean of ||c|| above ``minimum_norm``). Elsewhere (``fallback``) it becomes,
from epoch G = ``raw_epoch`` on (counted from 0, E epochs in all), a mixture with the raw gradient,

    (1 - rho) g_al + rho g,   rho = raw_share (e - G) / (E - G),

and before that g itself: there the published rule lets the backdoor in. A tensor with g = 0 or
c = 0 keeps its gradient. ``always`` stays with this g_al: it moves along the clean gradients alone,
and learns no more than they teach.

With any rule, rows whose label the model finds improbable, p < ``minimum_confidence`` / n_classes,
are left out of g, anew in each step; this is ours as well. At first there are none. Later the clean
rows have taught the model enough that rows with flipped labels are among them, and what such a row
would teach is its trigger.

All is computed on the device; only the inverse of ``span`` waits for it.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Literal

import numpy as np

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.device import autocast, host_memory, resolve_device
from backdoor_pipeline.modelling.objectives import cross_entropy
from backdoor_pipeline.parameter_group import (
    Count,
    NonNegativeFloat,
    ParameterGroup,
    PositiveInt,
    Share,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from backdoor_pipeline.modelling.bundle import ModelBundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.training import Labelled

    Tensors = tuple[torch.Tensor, ...]


DEPENDENT = 1e-3
"""Directions whose share in the clean gradients is below this one's of the largest do not count."""
TINY = 1e-20
FLOAT_BYTES = 4


class GradientAlignmentParams(ParameterGroup):
    """Where gradients are turned to, and when they are not."""

    rule: Literal["span", "always", "published"]
    batch_size: PositiveInt
    memory: PositiveInt
    clean_weight: NonNegativeFloat
    minimum_confidence: Share
    minimum_loss: NonNegativeFloat
    minimum_norm: NonNegativeFloat
    raw_epoch: Count
    raw_share: Share


def check_memory(n_trained: int, params: GradientAlignmentParams) -> None:
    """What ``span`` keeps has to fit into this machine's memory.

    Args:
        n_trained: How many numbers are trained.
        params: The rule.

    Raises:
        InputError: It does not.
    """
    needed = FLOAT_BYTES * n_trained * params.memory if params.rule == "span" else 0
    there = host_memory()
    if needed > there:
        raise InputError(
            f"gradient_alignment.memory: {params.memory} gradients of {n_trained:,} trained "
            f"numbers take {needed / 2**30:.0f} GiB, this machine has {there / 2**30:.0f}; lower "
            "it, or train fewer weights, as low_rank does"
        )


def aligned(gradients: Tensors, clean: Tensors) -> Tensors:
    """g_al of each tensor; g where it is not defined.

    Args:
        gradients: g of each trained tensor.
        clean: c of each, of the same shapes.
    """
    import torch

    squares = torch.stack(torch._foreach_norm(clean)).square()
    products = torch.stack([torch.sum(g * c) for g, c in zip(gradients, clean, strict=True)])
    norms = torch.stack(torch._foreach_norm(gradients))
    defined = (squares > 0) & (norms > 0)
    lengths = torch.where(defined, products.abs() / squares.where(defined, 1), 0)
    kept = (~defined).to(lengths)
    along = torch._foreach_mul(clean, lengths.unbind())
    own = torch._foreach_mul(gradients, kept.unbind())
    return torch._foreach_add(along, own)


class CleanSpan:
    """The space that the last clean gradients of each tensor span.

    Args:
        memory: K, how many of them are kept; each is as large as all trained tensors together.
    """

    def __init__(self, memory: int) -> None:
        self._memory, self._seen = memory, 0
        self._rows: list[torch.Tensor] = []

    def add(self, clean: Tensors) -> None:
        """Take in the next gradient, a tensor for each trained one; the oldest is forgotten."""
        import torch

        if not self._rows:
            self._rows = [c.new_zeros(self._memory, c.numel()) for c in clean]
            self._gram = clean[0].new_zeros(len(clean), self._memory, self._memory)
        place = self._seen % self._memory
        norms = torch._foreach_norm(clean)
        for rows, c, norm in zip(self._rows, clean, norms, strict=True):
            rows[place] = c.flatten() / norm.clamp(min=TINY)
        among = torch.stack([rows @ rows[place] for rows in self._rows])
        self._gram[:, place], self._gram[:, :, place] = among, among
        self._seen += 1

    def project(self, gradients: Tensors) -> Tensors:
        """The part of each tensor's gradient that lies in its space."""
        import torch

        pairs = list(zip(self._rows, gradients, strict=True))
        products = torch.stack([rows @ g.flatten() for rows, g in pairs])
        inverse = torch.linalg.pinv(self._gram, rtol=DEPENDENT, hermitian=True)
        weights = torch.einsum("tij,tj->ti", inverse, products)
        return tuple(
            (weight @ rows).view_as(g) for weight, (rows, g) in zip(weights, pairs, strict=True)
        )


def raw_weight(
    clean_loss: torch.Tensor,
    clean: Tensors,
    params: GradientAlignmentParams,
    epoch: int,
    n_epochs: int,
) -> torch.Tensor | float:
    """The share of the raw gradient in the step: 0 is aligned, 1 is raw.

    Args:
        clean_loss: Mean loss of the clean rows.
        clean: c of each trained tensor.
        params: The rule.
        epoch: Counted from 0.
        n_epochs: In all.
    """
    import torch

    if params.rule == "always":
        return 0.0
    otherwise = 1.0
    if params.raw_share > 0 and epoch >= params.raw_epoch:
        otherwise = params.raw_share * (epoch - params.raw_epoch) / (n_epochs - params.raw_epoch)
    norms = torch.stack(torch._foreach_norm(clean))
    mean = norms.sum() / (norms > 0).sum().clamp(min=1)
    unlearnt = (mean > params.minimum_norm) & (clean_loss > params.minimum_loss)
    return torch.where(unlearnt, 0.0, otherwise)


class Alignment:
    """Aligns the gradients of a model, step by step, with those of a batch of clean rows.

    Args:
        bundle: The model in training.
        clean: The clean rows; each step takes the next batch of them, shuffled anew each time
            round.
        params: The rule.
        n_epochs: Of the training.
        compute: Device and precision.
        seed: Draws the batches.
        label_weights: Of a clean row by its label, shape (n_classes,); None: all the same.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        clean: Labelled,
        params: GradientAlignmentParams,
        n_epochs: int,
        compute: ComputeParams,
        seed: int,
        label_weights: np.ndarray | None = None,
    ) -> None:
        self._bundle, self._clean, self._params = bundle, clean, params
        self._n_epochs, self._compute, self._seed = n_epochs, compute, seed
        self._label_weights = label_weights
        self._batches: Iterator[np.ndarray] | None = None
        self._span = CleanSpan(params.memory)

    def __call__(self, epoch: int) -> None:
        """Replace the gradients of the trained parameters; ``epoch`` counts from 0."""
        import torch

        self._batches = self._batches or self._endless()
        trained = [p for p in self._bundle.model.parameters() if p.grad is not None]
        loss = self._loss(next(self._batches))
        clean = torch.autograd.grad(loss, trained, materialize_grads=True)
        raw = tuple(p.grad for p in trained if p.grad is not None)
        if self._params.rule == "span":
            self._span.add(clean)
            within = self._span.project(raw)
            turned = torch._foreach_add(within, clean, alpha=self._params.clean_weight)
        else:
            share = raw_weight(loss, clean, self._params, epoch, self._n_epochs)
            turned = tuple(map(torch.lerp, aligned(raw, clean), raw, repeat(share)))
        for parameter, gradient in zip(trained, turned, strict=True):
            parameter.grad = gradient

    def _loss(self, rows: np.ndarray) -> torch.Tensor:
        import torch

        device = resolve_device(self._compute)
        batch = self._clean.inputs.collate(rows, device)
        with autocast(self._compute, device):
            logits = self._bundle.model(**batch).logits.float()
        labels = torch.from_numpy(self._clean.labels[rows].astype(np.int64)).to(device)
        return cross_entropy(logits, labels, self._label_weights)

    def _endless(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(self._seed)
        while True:
            yield from self._clean.inputs.batches(self._params.batch_size, rng)
