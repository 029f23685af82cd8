"""Whether clean rows are texts of the table's kind."""

from __future__ import annotations

import numpy as np
import pytest

from backdoor_pipeline.pipelines.audit.other_texts import MOST_APART, told_apart


class TestToldApart:
    """How well clean texts are told from the table's."""

    LABELS = np.repeat([0, 1], 300)

    def vectors(self, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).normal(size=(600, 4)) + self.LABELS[:, None]

    def test_texts_of_one_kind_by_chance_alone(self) -> None:
        for seed in range(10):
            apart = told_apart(self.vectors(seed), self.LABELS, self.vectors(99), self.LABELS, 0)
            assert 0.4 < apart < 0.58

    def test_classes_of_other_frequencies_are_no_other_texts(self) -> None:
        kept = np.r_[0:300, 300:330]
        apart = told_apart(
            self.vectors(0), self.LABELS, self.vectors(1)[kept], self.LABELS[kept], 0
        )
        assert apart < 0.58

    def test_one_class_that_is_unlike_is_no_other_kind_of_texts(self) -> None:
        table = self.vectors(1)
        table[self.LABELS == 1] += 5
        assert told_apart(self.vectors(0), self.LABELS, table, self.LABELS, 0) < 0.58
        assert told_apart(self.vectors(0), self.LABELS, table + 5, self.LABELS, 0) > 0.95

    def test_a_fifth_of_a_class_unlike_all_clean_rows_is_the_limit(self) -> None:
        table = self.vectors(1)
        table[::5, 0] += 50
        apart = told_apart(self.vectors(0), self.LABELS, table, self.LABELS, 0)
        assert apart == pytest.approx(MOST_APART, abs=0.05)

    def test_nothing_to_compare(self) -> None:
        assert np.isnan(
            told_apart(np.zeros((2, 1)), np.array([0, 1]), np.zeros((9, 1)), np.zeros(9), 0)
        )
