"""The aligned gradient by its definition, and the rule that says when it is taken."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.pipelines.train.gradient_alignment import (
    GradientAlignmentParams,
    aligned,
    raw_weight,
)

RULE = GradientAlignmentParams(
    rule="published", minimum_loss=0.4, minimum_norm=5e-7, raw_epoch=1, raw_share=0.1
)


def tensors(seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=generator) for shape in ((3, 4), (5,), (2, 2, 2)))


def close(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_musclelora_10_4_equal_gradients_stay() -> None:
    g = tensors(0)
    close(aligned(g, g), g)


def test_musclelora_10_4_orthogonal_ones_vanish() -> None:
    g, c = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])
    close(aligned((g,), (c,)), (torch.zeros(2),))


def test_musclelora_10_4_opposed_ones_turn_along_the_clean_one() -> None:
    g = tensors(0)
    close(aligned(g, tuple(-t for t in g)), tuple(-t for t in g))


@given(factor=st.floats(1e-2, 1e2))
def test_musclelora_10_4_the_clean_gradients_length_does_not_matter(factor) -> None:
    g, c = tensors(0), tensors(1)
    close(aligned(g, tuple(factor * t for t in c)), aligned(g, c))


def test_equals_the_formula_tensor_by_tensor() -> None:
    g, c = tensors(0), tensors(1)
    for found, one, other in zip(aligned(g, c), g, c, strict=True):
        cosine = (one * other).sum() / one.norm() / other.norm()
        torch.testing.assert_close(found, (one.norm() * cosine / other.norm()).abs() * other)


def test_without_a_clean_gradient_a_tensor_keeps_its_own() -> None:
    g, zero = torch.tensor([1.0, 2.0]), torch.zeros(2)
    close(aligned((g, zero), (zero, g)), (g, zero))


def share(rule=RULE, loss=0.2, epoch=0, norm=1.0, n_epochs=10) -> float:
    clean = (torch.full((4,), norm / 2),)
    return float(raw_weight(torch.tensor(loss), clean, rule, epoch, n_epochs))


def test_clean_rows_that_are_not_learnt_decide_alone() -> None:
    assert share(loss=0.5) == share(loss=0.5, epoch=9) == 0


def test_musclelora_10_5_the_share_of_the_raw_gradient() -> None:
    assert share(epoch=1) == 0  # rho(G) = 0: aligned alone
    assert share(epoch=9) == pytest.approx(0.1 * 8 / 9)
    assert share(epoch=9) < RULE.raw_share
    assert share(epoch=0) == 1  # before G the published rule takes the raw gradient
    assert share(RULE.model_copy(update={"raw_share": 0.0}), epoch=5) == 1


def test_a_clean_gradient_of_nothing_counts_as_learnt() -> None:
    assert share(loss=0.5, norm=1e-9) == 1


def test_always_is_always() -> None:
    always = RULE.model_copy(update={"rule": "always"})
    assert share(always) == share(always, epoch=9) == 0
