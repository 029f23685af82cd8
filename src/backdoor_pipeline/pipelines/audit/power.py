"""How small a trigger would have been found: the power of the audit, in this very table.

A trigger of n texts is planted at random places of random texts, as often as ``natural_words`` does
to know what insertions look like. Its labels are those that it would leave: all of the target. So
it is known whether its tie to the label would be looked at, what part of the risk it would have,
and with it how often it would be found.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from backdoor_pipeline.pipelines.audit.inserted_phrases import (
    CERTAIN,
    EVIDENCE,
    Ties,
    evidence_of_labels,
    shares_of_risk,
)
from backdoor_pipeline.pipelines.audit.natural_words import SIZES, NaturalWords

WANTED = 0.95  # chance of being found
MODES = ("any", "own")
"""Which texts an attacker poisons: any texts, or only texts that have the target label anyway."""


def measure_power(
    natural: NaturalWords,
    phrases: pd.DataFrame,
    probability: np.ndarray,
    ties: Ties,
    risk: float,
) -> pd.DataFrame:
    """The chance of finding a word or sentence that is new to the table, by label and mode.

    Args:
        natural: The natural words, and the random places among them.
        phrases: Those that were weighed: they have a part in the risk too.
        probability: Of each label by the text alone, shape (n_texts, n_labels).
        ties: What is tied to labels: a trigger must be, too, before its places are looked at.
        risk: Of a false alarm by phrases.

    Returns:
        ``label``, ``mode`` (see ``MODES``), ``texts`` that hold the trigger, their ``share`` of the
        table, and the ``chance`` of finding it. Nothing where there are too few natural words.
    """
    from scipy.stats import norm

    around = natural.surroundings
    labels = around.labels[around.active]
    explained = np.clip(probability[around.active], CERTAIN, 1 - CERTAIN)
    others = phrases[EVIDENCE].to_numpy(dtype=np.float64)
    rows = []
    for label in around.classes:
        own = labels == label
        prior = own.mean()
        for mode in MODES:
            expected = explained[own if mode == "own" else slice(None), label].mean()
            for size in SIZES:
                scores = natural.planted_scores(size)
                if scores is None or size > (own.sum() if mode == "own" else len(labels)):
                    continue
                chance = 0.0
                if size >= ties.min_count and prior**size <= ties.largest_p:
                    evidence = evidence_of_labels(size, size, prior, expected, 0.0)
                    weight = shares_of_risk(np.vstack([others, evidence]))[-1]
                    chance = float((norm.cdf(scores) <= risk * weight).mean())
                rows.append([label, mode, size, size / len(labels), chance])
    return pd.DataFrame(rows, columns=["label", "mode", "texts", "share", "chance"])


def detectable(power: pd.DataFrame) -> dict[str, Any]:
    """The smallest trigger that would be found with ``WANTED`` probability, whatever its label.

    So would be every larger one that was tried.

    Returns:
        For each mode ``texts`` and ``share`` of the table; None where none would be.
    """
    smallest: dict[str, Any] = {}
    for mode in MODES:
        own = power[power["mode"] == mode]
        worst = own.groupby("texts").agg(
            chance=("chance", "min"), share=("share", "max"), labels=("label", "nunique")
        )
        every = worst["labels"] == power["label"].nunique()  # a small class has not so many texts
        worst = worst[every]
        surely = (worst["chance"] >= WANTED)[::-1].cummin()[::-1]  # so that is of larger ones, too
        enough = worst[surely]
        found = len(enough) > 0
        smallest[mode] = (
            {"texts": int(enough.index[0]), "share": float(enough["share"].iloc[0])}
            if found
            else None
        )
    return smallest
