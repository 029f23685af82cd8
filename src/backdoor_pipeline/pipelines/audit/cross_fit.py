"""Logistic regressions whose predictions are of rows that they have not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

FOLDS = 5
MOST_ITERATIONS = 300


def regression(inverse_penalty: float, balanced: bool = False) -> LogisticRegression:
    """A logistic regression, with the inverse strength of the penalty on its coefficients.

    ``balanced``: each class weighs the same, however many rows it has.
    """
    from sklearn.linear_model import LogisticRegression

    weight = "balanced" if balanced else None
    return LogisticRegression(C=inverse_penalty, max_iter=MOST_ITERATIONS, class_weight=weight)


def folds(seed: int) -> StratifiedKFold:
    """``FOLDS`` parts of rows, each with all classes."""
    from sklearn.model_selection import StratifiedKFold

    return StratifiedKFold(FOLDS, shuffle=True, random_state=seed)


def held_out(
    made: LogisticRegression,
    vectors: np.ndarray,
    labels: np.ndarray,
    seed: int,
    method: Literal["predict_proba", "decision_function"],
) -> np.ndarray:
    """What ``method`` says of each row by regressions like ``made`` that have not seen it."""
    from sklearn.model_selection import cross_val_predict

    return np.asarray(cross_val_predict(made, vectors, labels, method=method, cv=folds(seed)))
