"""The rows that the evidence points at, with reasons."""

from __future__ import annotations

import numpy as np
import pandas as pd

from backdoor_pipeline.modelling.words import START, WrittenWords, read_words

COLUMNS = ["example_id", "split", "label", "text", "reasons"]


def suspicious_rows(
    examples: pd.DataFrame,
    phrases: pd.DataFrame,
    openings: pd.DataFrame,
    contradicted: pd.DataFrame,
) -> pd.DataFrame:
    """The rows that the evidence points at.

    Args:
        examples: Of all splits.
        phrases: ``phrase``, ``written``, ``label`` and ``flagged``.
        openings: ``opening``, ``written``, ``label`` and ``flagged``.
        contradicted: ``text`` and ``label`` of rows that clean rows contradict, and ``p_value``.

    Returns:
        ``example_id``, ``split``, ``label``, ``text`` and ``reasons``, in the order of the table.
    """
    words = read_words(examples["text"])
    reasons = reasons_by_words(words, examples["label"].to_numpy(), phrases, openings)
    chances = contradicted.set_index(["text", "label"])["p_value"].to_dict()
    for row, key in enumerate(zip(examples["text"].str.lower(), examples["label"], strict=True)):
        if key in chances:
            reasons[row].append(f"clean rows contradict the label (p = {chances[key]:.2g})")
    chosen = np.array([bool(reason) for reason in reasons], dtype=bool)
    table = examples.assign(reasons=["; ".join(reason) for reason in reasons])
    return table.loc[chosen, COLUMNS].reset_index(drop=True)


def reasons_by_words(
    words: WrittenWords, labels: np.ndarray, phrases: pd.DataFrame, openings: pd.DataFrame
) -> list[list[str]]:
    """Why each text is suspected: it holds a flagged phrase, or begins so, and has its label."""
    reasons: list[list[str]] = [[] for _ in range(len(labels))]
    for found in phrases[phrases["flagged"]].itertuples():
        holds = texts_with(words, str(found.phrase))
        for row in holds[labels[holds] == found.label]:
            reasons[row].append(f"holds “{found.written}”")
    first = words.ids[np.flatnonzero(words.ids == START) + 1]
    for found in openings[openings["flagged"]].itertuples():
        begins = first == words.spelling.index(str(found.opening))
        for row in np.flatnonzero(begins & (labels == found.label)):
            reasons[row].append(f"begins with “{found.written}”")
    return reasons


def texts_with(words: WrittenWords, phrase: str) -> np.ndarray:
    """The numbers of the texts that hold ``phrase``, as ``WrittenWords.written`` writes it."""
    return np.unique(words.rows[words.positions(words.phrase(phrase))])
