"""Clean accuracy, attack success and their uncertainty: the one place they are defined.

Every rate is a fraction with a 95 % Wilson score interval and the number of examples behind it.
Definitions: CA is accuracy on untouched test rows; ASR is the share of triggered test rows, whose
true label is not the target, that are predicted as the target; robust accuracy (RA) is the share of
the same rows predicted as their true label. With V the victim and M the model that it became,

    healed = (RA(M) - RA(V)) / (CA(V) - RA(V))

is 0 if M is as the victim, 1 if it knows triggered rows as well as the victim knows clean ones.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from backdoor_pipeline.exact_tests import sign_flips
from backdoor_pipeline.intervals import Rate, rate


def clean_accuracy(predicted: np.ndarray, labels: np.ndarray) -> Rate:
    """Share of clean rows predicted as their label; no trigger parameter enters."""
    return rate(np.asarray(predicted) == np.asarray(labels))


def attack_success_rate(
    predicted: np.ndarray,
    labels: np.ndarray,
    target_label: int,
    variant: Literal["strict", "all"] = "strict",
) -> Rate:
    """Share of triggered rows predicted as ``target_label``.

    Args:
        predicted: Predicted labels of triggered rows, shape (n,).
        labels: Their true labels, shape (n,).
        target_label: What the attacker wants.
        variant: "strict" leaves out rows whose true label is the target; "all" counts them too.

    Raises:
        ValueError: No row is eligible.
    """
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    eligible = labels != target_label if variant == "strict" else np.ones(len(labels), dtype=bool)
    return rate(predicted[eligible] == target_label)


def robust_accuracy(predicted: np.ndarray, labels: np.ndarray, target_label: int) -> Rate:
    """Share of triggered non-target rows predicted as their true label."""
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    eligible = labels != target_label
    return rate(predicted[eligible] == labels[eligible])


def healed(gain: Rate, clean_accuracy: float, robust_accuracy: float) -> Rate | None:
    """How much of what the trigger spoils is right again; None if it spoils nothing.

    Args:
        gain: In robust accuracy, over the victim; its interval is divided as its value is.
        clean_accuracy: Of the victim.
        robust_accuracy: Of the victim.
    """
    spoilt = clean_accuracy - robust_accuracy
    if spoilt <= 0:
        return None
    return Rate(gain.value / spoilt, gain.low / spoilt, gain.high / spoilt, gain.n)


def excess(success: float, floor: float) -> float:
    """Attack success beyond a model without poison: max(0, ASR - floor) / (1 - floor)."""
    return 0.0 if floor >= 1 else max(0.0, success - floor) / (1 - floor)


def mcnemar(hits_before: np.ndarray, hits_after: np.ndarray) -> float:
    """Exact two-sided McNemar p-value for two models on the same examples."""
    return sign_flips(hits_after.astype(int) - hits_before)
