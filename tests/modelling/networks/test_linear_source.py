"""Moderate fitting's linear map against the map written out."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import Embedding, Linear, ModuleList
from torch.nn.utils.parametrize import register_parametrization

from backdoor_pipeline.modelling.networks.linear_source import LinearSource, Produced

DIMENSIONS = st.integers(1, 5)


@given(in_dim=DIMENSIONS, mid_dim=DIMENSIONS, seed=st.integers(0, 99))
def test_it_starts_with_the_tensor_that_was_there(in_dim, mid_dim, seed) -> None:
    torch.manual_seed(seed)
    produced = Produced(LinearSource(in_dim, mid_dim))
    tensor = torch.randn(3, 2)
    part = produced.right_inverse(tensor)
    assert part.shape == (3, 2, mid_dim)
    torch.testing.assert_close(produced(part), tensor, atol=1e-5, rtol=1e-4)
    assert not produced(produced.right_inverse(torch.zeros(3))).any()


@given(in_dim=DIMENSIONS, mid_dim=DIMENSIONS)
def test_all_tensors_are_one_map_of_the_vector(in_dim, mid_dim) -> None:
    torch.manual_seed(0)
    modules = ModuleList([Linear(4, 3, bias=False), Embedding(2, 5)])
    n_numbers = sum(p.numel() for p in modules.parameters())
    source = LinearSource(in_dim, mid_dim)
    for module in modules:
        register_parametrization(module, "weight", Produced(source))
    assert sum(p.numel() for p in modules.parameters()) == mid_dim * (in_dim + n_numbers)
    parts = [torch.nn.init.normal_(m.parametrizations.weight.original) for m in modules]
    second = torch.cat([part.reshape(-1, mid_dim) for part in parts])
    written_out = second @ source.first.weight @ torch.ones(in_dim)
    flat = torch.cat([module.weight.flatten() for module in modules])
    torch.testing.assert_close(flat, written_out, atol=1e-5, rtol=1e-4)
