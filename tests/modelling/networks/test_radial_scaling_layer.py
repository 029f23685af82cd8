"""The layer's equation against a naive loop, its size, and that merging loses nothing."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Linear

from backdoor_pipeline.modelling.networks.radial_scaling import RadialScaling


def layer(bands=(1.0, 4.0, 9.0), rank=2, alpha=6.0, zero_init=False, bias=True) -> RadialScaling:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RadialScaling(Linear(5, 4, bias=bias), bands, rank, alpha, zero_init)


@pytest.fixture
def states():
    return torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(1))


def test_musclelora_10_2_output_equals_a_naive_loop(states) -> None:
    scaled, alpha, rank = layer(), 6.0, 2
    scales = [1.0, 1.0, 4.0, 4.0, 9.0, 9.0]
    w, b, left, right = scaled.frozen.weight, scaled.frozen.bias, scaled.left, scaled.right
    outputs = scaled(states)
    for x, y in zip(states.reshape(-1, 5), outputs.reshape(-1, 4), strict=True):
        for o in range(4):
            expected = b[o] + sum(w[o, i] * x[i] for i in range(5))
            for k, scale in enumerate(scales):
                inner = sum(left[k, i] * x[i] for i in range(5))
                expected = expected + alpha / rank * right[o, k] * scale * inner
            assert y[o].item() == pytest.approx(expected.item(), abs=1e-5)


def test_musclelora_10_1_a_silent_branch_leaves_the_layer_as_it_is(states) -> None:
    scaled = layer(bands=(1.0,), zero_init=True)
    assert torch.equal(scaled(states), scaled.frozen(states))


def test_a_drawn_branch_does_not(states) -> None:
    scaled = layer()
    assert not torch.allclose(scaled(states), scaled.frozen(states))


def test_musclelora_10_3_doubled_bands_are_a_doubled_alpha(states) -> None:
    torch.testing.assert_close(
        layer(bands=(2.0, 8.0, 18.0))(states), layer(alpha=12.0)(states), rtol=1e-5, atol=1e-5
    )


def test_musclelora_10_2_only_the_branch_is_trained() -> None:
    scaled = layer()
    trained = {name: p for name, p in scaled.named_parameters() if p.requires_grad}
    assert set(trained) == {"left", "right"}
    assert sum(p.numel() for p in trained.values()) == 3 * 2 * (5 + 4)  # m q (I + O)


@pytest.mark.parametrize("bias", [True, False])
def test_merging_loses_nothing(states, bias) -> None:
    scaled = layer(bias=bias)
    before = scaled(states)
    merged = scaled.merged()
    assert type(merged) is Linear
    torch.testing.assert_close(merged(states), before, rtol=1e-5, atol=1e-5)
