"""The aligned gradient by its definition, and the rule that says when it is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.bundle import ModelBundle
from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.training import labelled
from backdoor_pipeline.pipelines.train.gradient_alignment import (
    Alignment,
    CleanSpan,
    GradientAlignmentParams,
    aligned,
    check_memory,
    raw_weight,
)
from tiny import MAX_LENGTH

RULE = GradientAlignmentParams(
    rule="published",
    batch_size=8,
    memory=4,
    clean_weight=3.0,
    minimum_confidence=0.0,
    minimum_loss=0.4,
    minimum_norm=5e-7,
    raw_epoch=1,
    raw_share=0.1,
)


def tensors(seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=generator) for shape in ((3, 4), (5,), (2, 2, 2)))


def close(found, expected, tolerance=1e-5) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance / 10)


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


def span_of(*clean: tuple[torch.Tensor, ...], memory: int = 4) -> CleanSpan:
    span = CleanSpan(memory)
    for gradient in clean:
        span.add(gradient)
    return span


@given(weights=st.lists(st.floats(-10, 10), min_size=3, max_size=3))
def test_span_keeps_what_the_clean_gradients_can_make(weights) -> None:
    clean = [tensors(seed) for seed in range(3)]
    g = tuple(
        sum(w * c for w, c in zip(weights, parts, strict=True))
        for parts in zip(*clean, strict=True)
    )
    close(span_of(*clean).project(g), g, 1e-3)  # through the square of C


def test_span_drops_what_no_clean_gradient_has() -> None:
    g, c, d = torch.eye(3)
    close(span_of((c,), (d,)).project((g + 2 * c,)), (2 * c,))
    close(span_of((c,), (d,)).project((g,)), (0 * g,))


def test_span_of_one_is_the_projection_with_its_sign() -> None:
    g, c = tensors(0), tensors(1)
    for found, one, other in zip(span_of(c).project(g), g, c, strict=True):
        expected = (one * other).sum() / other.norm() ** 2 * other
        torch.testing.assert_close(found, expected)


@given(factor=st.floats(1e-2, 1e2), seed=st.integers(0, 100))
def test_span_is_a_projection_whatever_the_clean_lengths(factor, seed) -> None:
    clean, g = [tensors(seed + 1), tensors(seed + 2)], tensors(seed)
    span = span_of(*clean)
    once = span.project(g)
    close(span.project(once), once, 1e-3)
    close(span_of(tuple(factor * t for t in clean[0]), clean[1]).project(g), once, 1e-3)
    assert all(one.norm() <= other.norm() + 1e-5 for one, other in zip(once, g, strict=True))


def test_span_forgets_the_oldest() -> None:
    a, b, c = torch.eye(3)
    span = span_of((a,), (b,), (c,), memory=2)
    close(span.project((a + b + c,)), (b + c,))


def test_span_of_equal_or_no_gradients_is_well_defined() -> None:
    g, c = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1e-8])
    close(span_of((c,), (c,), (c,)).project((g,)), (torch.tensor([0.0, 2.0]),))
    close(span_of((0 * c,)).project((g,)), (0 * g,))


class KnownGradient(Alignment):
    """Its clean rows have the gradient ``clean``, whatever the model."""

    clean = torch.tensor([[0.0, 2.0, 0.0]])

    def _endless(self):
        while True:
            yield np.arange(2)

    def _loss(self, rows):
        return (self._bundle.model.weight * self.clean).sum()


def test_labels_of_clean_rows_weigh_in_their_gradient(base_model, corpus, compute) -> None:
    bundle = new_classifier(base_model(), 2, seed=0)
    clean = labelled(corpus.head(12), bundle, MAX_LENGTH)
    params = RULE.model_copy(update={"rule": "span", "batch_size": 12, "clean_weight": 1.0})

    def turned(weights):
        for parameter in bundle.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        Alignment(bundle, clean, params, 1, compute, 0, weights)(0)
        return bundle.model.classifier.bias.grad

    heavy = turned(np.array([1e6, 1.0]))  # the rows of the first label alone
    assert heavy[0] < 0 < heavy[1]
    light = turned(np.array([1e-6, 1.0]))
    assert light[1] < 0 < light[0]
    close((turned(None),), (turned(np.array([2.0, 2.0])),))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("span", [0.0, -4.0 + 3 * 2.0, 0.0]), ("always", [0.0, 4.0, 0.0])],
)
def test_a_step_is_turned_by_the_rule(rule, expected, compute) -> None:
    model = torch.nn.Linear(3, 1, bias=False)
    model.weight.grad = torch.tensor([[1.0, -4.0, 5.0]])
    params = RULE.model_copy(update={"rule": rule})
    KnownGradient(ModelBundle(model, None), None, params, 1, compute, 0)(0)
    close(model.weight.grad, torch.tensor([expected]))


def test_a_memory_that_does_not_fit_is_told() -> None:
    huge = RULE.model_copy(update={"rule": "span", "memory": 10**6})
    with pytest.raises(InputError, match=r"memory: 1000000 gradients of 110,000,000 .* lower it"):
        check_memory(110_000_000, huge)
    check_memory(110_000_000, huge.model_copy(update={"rule": "always"}))
    check_memory(10_000, RULE.model_copy(update={"rule": "span"}))
