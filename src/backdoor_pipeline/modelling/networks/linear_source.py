"""Tensors that one small linear map of a fixed vector produces together.

Source: "Moderate-fitting as a Natural Backdoor Defender for Pre-trained Language Models", NeurIPS
2022. All trained tensors, flattened to P numbers, are theta = W2 W1 v with v (in) fixed, W1
(mid, in) and W2 (P, mid), without bias. W2 is cut into the parts that make the single tensors.
"""

from __future__ import annotations

import torch
from torch.nn import Linear, Module
from torch.nn.init import orthogonal_


class LinearSource(Module):
    """v and W1, common to all tensors.

    Args:
        in_dim: Of v, all ones.
        mid_dim: Of W1 v; W1 is drawn as an orthogonal map.
    """

    def __init__(self, in_dim: int, mid_dim: int) -> None:
        super().__init__()
        self.first = Linear(in_dim, mid_dim, bias=False)
        orthogonal_(self.first.weight)
        self.vector: torch.Tensor
        self.register_buffer("vector", torch.ones(in_dim))

    def forward(self) -> torch.Tensor:
        """W1 v, (mid,)."""
        return self.first(self.vector)


class Produced(Module):
    """A tensor as the product of its part of W2 and ``source``: a parametrisation of torch."""

    def __init__(self, source: LinearSource) -> None:
        super().__init__()
        self.source = source

    def forward(self, part: torch.Tensor) -> torch.Tensor:
        """From the part of W2, (*shape, mid), to the tensor, (*shape)."""
        return part @ self.source()

    def right_inverse(self, tensor: torch.Tensor) -> torch.Tensor:
        """The smallest part of W2 that makes ``tensor``."""
        source = self.source().detach()
        return tensor.unsqueeze(-1) * (source / source.square().sum())
