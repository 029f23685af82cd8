"""Gradients of possibly poisoned rows, turned towards those of a few clean rows.

Source: MuScleLoRA, arXiv 2402.12026, and its published code. For each trained tensor, with g its
gradient on the batch and c its gradient on clean rows:

    g_al = |g·c| / ||c||² c            the projection's length, always along +c

The gradient becomes g_al where the clean rows are not yet learnt (their loss is above
``minimum_loss`` and the mean of ||c|| above ``minimum_norm``). Elsewhere (``fallback``) it becomes,
from epoch G = ``raw_epoch`` on (counted from 0, E epochs in all), a mixture with the raw gradient,

    (1 - rho) g_al + rho g,   rho = raw_share (e - G) / (E - G),

and before that g itself: there the published rule lets the backdoor in. ``always`` stays with g_al.
A tensor with g = 0 or c = 0 keeps its gradient. All is computed on the device, without waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from backdoor_pipeline.modelling.device import autocast, resolve_device
from backdoor_pipeline.modelling.text import collate, length_batches
from backdoor_pipeline.parameter_group import Count, NonNegativeFloat, ParameterGroup, Share

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from backdoor_pipeline.modelling.bundle import ModelBundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.training import Labelled, OptimisationParams

    Tensors = tuple[torch.Tensor, ...]


class GradientAlignmentParams(ParameterGroup):
    """When the clean rows decide alone, and what happens otherwise."""

    rule: Literal["published", "always"]
    minimum_loss: NonNegativeFloat
    minimum_norm: NonNegativeFloat
    raw_epoch: Count
    raw_share: Share


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
        optimisation: Batch size and epochs of the training.
        compute: Device and precision.
        seed: Draws the batches.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        clean: Labelled,
        params: GradientAlignmentParams,
        optimisation: OptimisationParams,
        compute: ComputeParams,
        seed: int,
    ) -> None:
        self._bundle, self._clean, self._params = bundle, clean, params
        self._optimisation, self._compute, self._seed = optimisation, compute, seed
        self._batches: Iterator[np.ndarray] | None = None

    def __call__(self, epoch: int) -> None:
        """Replace the gradients of the trained parameters; ``epoch`` counts from 0."""
        import torch

        self._batches = self._batches or self._endless()
        trained = [p for p in self._bundle.model.parameters() if p.grad is not None]
        loss = self._loss(next(self._batches))
        clean = torch.autograd.grad(loss, trained, materialize_grads=True)
        raw = tuple(p.grad for p in trained if p.grad is not None)
        share = raw_weight(loss, clean, self._params, epoch, self._optimisation.epochs)
        for parameter, g, g_al in zip(trained, raw, aligned(raw, clean), strict=True):
            parameter.grad = torch.lerp(g_al, g, share)

    def _loss(self, rows: np.ndarray) -> torch.Tensor:
        import torch

        device = resolve_device(self._compute)
        batch = collate(self._clean.tokens, rows, self._bundle.tokenizer.pad_token_id, device)
        with autocast(self._compute, device):
            logits = self._bundle.model(**batch).logits
        labels = torch.from_numpy(self._clean.labels[rows].astype(np.int64)).to(device)
        return torch.nn.functional.cross_entropy(logits.float(), labels)

    def _endless(self) -> Iterator[np.ndarray]:
        rng, lengths = np.random.default_rng(self._seed), self._clean.tokens.lengths
        while True:
            yield from length_batches(lengths, self._optimisation.batch_size, rng)
