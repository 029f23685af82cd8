"""What is minimised: by its definition, row by row, and what each setting does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.modelling.objectives import balanced_weights, cross_entropy

number = st.floats(-5, 5, width=32)


@st.composite
def batches(draw) -> tuple[torch.Tensor, torch.Tensor]:
    n_rows, n_classes = draw(st.integers(1, 9)), draw(st.integers(2, 4))
    row = st.lists(number, min_size=n_classes, max_size=n_classes)
    logits = draw(st.lists(row, min_size=n_rows, max_size=n_rows))
    label = st.integers(0, n_classes - 1)
    return torch.tensor(logits), torch.tensor(
        draw(st.lists(label, min_size=n_rows, max_size=n_rows))
    )


@given(
    batch=batches(),
    weighted=st.booleans(),
    even=st.booleans(),
    doubt=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_by_its_definition(batch, weighted, even, doubt) -> None:
    weighted &= not even
    logits, labels = (t.numpy() for t in batch)
    n_rows, n_classes = logits.shape
    weights = np.arange(1.0, n_classes + 1) if weighted else np.ones(n_classes)
    kept = {label: [] for label in set(labels.tolist())}
    for row, label in zip(logits.astype(float), labels.tolist(), strict=True):
        probability = np.exp(row[label]) / np.exp(row).sum()
        if abs(probability - doubt / n_classes) < 1e-5:
            return  # which side it is on, rounding says
        if probability > doubt / n_classes:
            kept[label].append(-np.log(probability))
    whole = {label: 1 if even else weights[label] * (labels == label).sum() for label in kept}
    means = {label: sum(losses) / max(len(losses), 1) for label, losses in kept.items()}
    mean = sum(whole[label] * means[label] for label in kept) / sum(whole.values())
    left = sum(map(len, kept.values())) / n_rows
    found = cross_entropy(*batch, weights if weighted else None, even, doubt)
    assert float(found) == pytest.approx(left * mean, abs=1e-4)


@given(labels=st.lists(st.integers(0, 3), min_size=1))
def test_balanced_weights_make_all_labels_count_the_same(labels) -> None:
    weights = balanced_weights(np.array(labels), 4)
    sums = np.bincount(labels, minlength=4) * weights
    assert sums[sums > 0] == pytest.approx(len(labels) / 4)
    assert (weights > 0).all()


@pytest.mark.parametrize("doubt", [0.0, 0.4])
def test_class_balanced_have_the_same_gradient(doubt) -> None:
    logits = torch.zeros(10, 2, requires_grad=True)
    labels = torch.tensor([0] * 9 + [1])
    for settings in (
        {"class_balanced": True},
        {"label_weights": balanced_weights(labels.numpy(), 2)},
    ):
        logits.grad = None
        cross_entropy(logits, labels, **settings, minimum_confidence=doubt).backward()
        assert logits.grad[:9].sum(dim=0).tolist() == pytest.approx([-0.25, 0.25])
        assert logits.grad[9].tolist() == pytest.approx([0.25, -0.25])


def test_the_others_of_a_label_take_the_weight_of_a_doubted_row() -> None:
    logits = torch.tensor([[2.0, -2.0], [2.0, -2.0], [-0.1, 0.1]], requires_grad=True)
    labels = torch.tensor([0, 1, 1])
    cross_entropy(logits, labels, minimum_confidence=0.4).backward()
    assert logits.grad[1].tolist() == [0, 0]
    alone = torch.tensor([[2.0, -2.0], [-0.1, 0.1]], requires_grad=True)
    cross_entropy(alone, labels[[0, 2]], np.array([1.0, 2.0])).backward()
    torch.testing.assert_close(logits.grad[[0, 2]], alone.grad * 2 / 3)


def test_a_batch_of_doubted_rows_alone_is_no_error() -> None:
    logits = torch.tensor([[9.0, -9.0]], requires_grad=True)
    cross_entropy(logits, torch.tensor([1]), minimum_confidence=0.4).backward()
    assert logits.grad.tolist() == [[0, 0]]


def test_labels_are_weighed_one_way() -> None:
    with pytest.raises(ValueError, match="not by both"):
        cross_entropy(torch.zeros(1, 2), torch.tensor([0]), np.ones(2), class_balanced=True)
