"""A dense layer beside which low-rank branches see their input on several radial scales.

Source: "Acquiring Clean Language Models from Backdoor Poisoned Datasets by Downscaling Frequency
Space", ACL 2024, arXiv 2402.12026 (MuScleLoRA). With the frozen layer W0, b0, the bands k_1..k_m,
each with q ranks, and K = (k_1 q times, ..., k_m q times):

    y = x W0^T + b0 + (alpha / q) x (R diag(K) L)^T

All of it is linear in x, so that it can be merged into one dense layer without any loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import Linear, Module, Parameter
from torch.nn.functional import linear
from torch.nn.init import kaiming_uniform_


class RadialScaling(Module):
    """``frozen`` and, added to it, its input scaled by ``bands``.

    Args:
        frozen: Dense layer, (out, in); trained no further.
        bands: Factors k, all positive.
        rank: Ranks q of each band.
        alpha: The branch is multiplied by ``alpha / rank``.
        zero_init: Whether R starts at 0, so that at first the layer is ``frozen``; published: both
            L and R are drawn.

    Attributes:
        left: L, (m q, in).
        right: R, (out, m q).
    """

    def __init__(
        self, frozen: Linear, bands: Sequence[float], rank: int, alpha: float, zero_init: bool
    ) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        scales = torch.tensor(bands, dtype=frozen.weight.dtype).repeat_interleave(rank)
        self.scales: torch.Tensor
        self.register_buffer("scales", scales * alpha / rank, persistent=False)
        self.left = Parameter(frozen.weight.new_empty(len(scales), frozen.in_features))
        self.right = Parameter(frozen.weight.new_zeros(frozen.out_features, len(scales)))
        kaiming_uniform_(self.left, a=math.sqrt(5))
        if not zero_init:
            kaiming_uniform_(self.right, a=math.sqrt(5))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """From (..., in) to (..., out)."""
        return self.frozen(states) + linear(linear(states, self.left) * self.scales, self.right)

    @torch.no_grad()
    def merged(self) -> Linear:
        """The one dense layer that computes the same."""
        self.frozen.weight += (self.right * self.scales) @ self.left
        return self.frozen
