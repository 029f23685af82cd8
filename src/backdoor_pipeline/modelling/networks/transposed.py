"""GPT-2's own kind of dense layer as an ordinary one."""

from __future__ import annotations

import torch
from torch.nn import Linear
from transformers.pytorch_utils import Conv1D


class TransposedConv1D(Linear):
    """The dense layer that computes what ``layer`` does, whose weight is stored (in, out)."""

    def __init__(self, layer: Conv1D) -> None:
        super().__init__(*layer.weight.shape)
        self.weight.data = layer.weight.data.T.contiguous()
        self.bias.data = layer.bias.data
        self.requires_grad_(layer.weight.requires_grad)

    @torch.no_grad()
    def back(self) -> Conv1D:
        """The layer of GPT-2's own kind."""
        layer = Conv1D(self.out_features, self.in_features)
        layer.weight.data = self.weight.data.T.contiguous()
        layer.bias.data = self.bias.data
        return layer
