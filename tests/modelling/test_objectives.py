"""What is minimised: by its definition, row by row, and what each setting does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.modelling.objectives import cross_entropy

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


@given(batch=batches(), even=st.booleans(), doubt=st.sampled_from([0.0, 0.4, 1.0]))
def test_by_its_definition(batch, even, doubt) -> None:
    logits, labels = (t.numpy() for t in batch)
    n_rows, n_classes = logits.shape
    kept = {label: [] for label in set(labels.tolist())}
    for row, label in zip(logits.astype(float), labels.tolist(), strict=True):
        probability = np.exp(row[label]) / np.exp(row).sum()
        if abs(probability - doubt / n_classes) < 1e-5:
            return  # which side it is on, rounding says
        if probability > doubt / n_classes:
            kept[label].append(-np.log(probability))
    n_kept = sum(map(len, kept.values()))
    if even:
        means = [sum(losses) / max(len(losses), 1) for losses in kept.values()]
        expected = n_kept / n_rows * np.mean(means)
    else:
        expected = sum(map(sum, kept.values())) / n_rows
    found = cross_entropy(*batch, even_labels=even, doubt_below=doubt)
    assert float(found) == pytest.approx(expected, abs=1e-4)


def test_even_labels_count_the_same() -> None:
    logits = torch.zeros(10, 2, requires_grad=True)
    labels = torch.tensor([0] * 9 + [1])
    cross_entropy(logits, labels, even_labels=True).backward()
    assert logits.grad[:9].sum(dim=0).tolist() == pytest.approx([-0.25, 0.25])
    assert logits.grad[9].tolist() == pytest.approx([0.25, -0.25])


@pytest.mark.parametrize("even", [False, True])
def test_a_doubted_row_teaches_nothing_and_the_others_no_more(even) -> None:
    logits = torch.tensor([[2.0, -2.0], [2.0, -2.0], [-0.1, 0.1]], requires_grad=True)
    labels = torch.tensor([0, 1, 1])
    cross_entropy(logits, labels, even, doubt_below=0.4).backward()
    assert logits.grad[1].tolist() == [0, 0]
    assert (logits.grad[[0, 2]] != 0).all()
    alone = torch.tensor([[2.0, -2.0], [-0.1, 0.1]], requires_grad=True)
    cross_entropy(alone, labels[[0, 2]], even).backward()
    torch.testing.assert_close(logits.grad[[0, 2]], alone.grad * 2 / 3)


def test_a_batch_of_doubted_rows_alone_is_no_error() -> None:
    logits = torch.tensor([[9.0, -9.0]], requires_grad=True)
    cross_entropy(logits, torch.tensor([1]), even_labels=True, doubt_below=0.4).backward()
    assert logits.grad.tolist() == [[0, 0]]
