"""GPT-2's dense layers as ordinary ones."""

from __future__ import annotations

import torch
from transformers.pytorch_utils import Conv1D

from backdoor_pipeline.modelling.networks.transposed import TransposedConv1D


def test_it_computes_the_same_and_back_again_bit_by_bit() -> None:
    torch.manual_seed(0)
    layer = Conv1D(5, 3)
    torch.nn.init.normal_(layer.bias)
    turned = TransposedConv1D(layer)
    states = torch.randn(2, 4, 3)
    torch.testing.assert_close(turned(states), layer(states))
    back = turned.back()
    assert type(back) is Conv1D and back.nf == layer.nf
    assert all(torch.equal(back.state_dict()[n], value) for n, value in layer.state_dict().items())
