"""The tie of an item to a label: closed forms against naive loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, fisher_exact

from backdoor_pipeline.modelling.label_association import associate, q_values, shift


@given(
    n_rows=st.integers(2, 40),
    n_items=st.integers(1, 5),
    n_labels=st.integers(2, 4),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=30)
def test_association_equals_a_naive_loop(n_rows, n_items, n_labels, seed):
    rng = np.random.default_rng(seed)
    presence = rng.random((n_rows, n_items)) < 0.4
    labels = rng.integers(0, n_labels, n_rows)
    active = rng.random(n_rows) < 0.8
    active[0] = True
    rows, items = np.nonzero(presence)
    found = associate(rows, items, n_items, labels, n_labels, active)
    total = active.sum()
    for item in range(n_items):
        for label in range(n_labels):
            has, hit = presence[active, item], labels[active] == label
            n, hits, share = has.sum(), (has & hit).sum(), hit.mean()
            table = [[hits, n - hits], [(~has & hit).sum(), (~has & ~hit).sum()]]
            expected = fisher_exact(table, alternative="greater").pvalue
            above = hits > n * share + 1e-9
            assert found.p[item, label] == pytest.approx(expected if above else 1.0, abs=1e-9)
            variance = n * share * (1 - share) * (total - n) / max(total - 1, 1)
            z = (hits - n * share) / np.sqrt(variance) if variance > 1e-9 else 0.0
            assert found.z[item, label] == pytest.approx(z, abs=1e-6)


def test_shift_is_the_two_sample_z():
    rng = np.random.default_rng(0)
    labels, clean_labels = rng.integers(0, 2, 200), rng.integers(0, 2, 150)
    has, clean_has = rng.random(200) < 0.3, rng.random(150) < 0.2

    def one(h, y):
        rows = np.flatnonzero(h)
        return associate(rows, np.zeros(len(rows), dtype=int), 1, y, 2)

    training = one(has, labels)
    found = shift(
        training, one(clean_has, clean_labels), np.bincount(labels), np.bincount(clean_labels)
    )
    for label in (0, 1):
        a, b = has[labels == label], clean_has[clean_labels == label]
        pooled = np.concatenate([a, b]).mean()
        z = (a.mean() - b.mean()) / np.sqrt(pooled * (1 - pooled) * (1 / len(a) + 1 / len(b)))
        assert found.z[0, label] == pytest.approx(min(z, training.z[0, label]))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_q_values_are_benjamini_hochberg(p):
    np.testing.assert_allclose(q_values(np.array(p)), false_discovery_control(p, method="bh"))
