"""The rows that the evidence points at, with reasons."""

from __future__ import annotations

import numpy as np
import pandas as pd

from backdoor_pipeline.modelling.words import START, WrittenWords, read_words

COLUMNS = ["example_id", "split", "label", "text", "reasons"]


def suspicious_rows(
    examples: pd.DataFrame, phrases: pd.DataFrame, openings: pd.DataFrame
) -> pd.DataFrame:
    """The rows that hold a flagged phrase, or begin as flagged, and have its label.

    Args:
        examples: Of all splits.
        phrases: ``phrase``, ``written``, ``label`` and ``flagged``.
        openings: ``opening``, ``written``, ``label`` and ``flagged``.

    Returns:
        ``example_id``, ``split``, ``label``, ``text`` and ``reasons``, in the order of the table.
    """
    words = read_words(examples["text"])
    labels = examples["label"].to_numpy()
    reasons: list[list[str]] = [[] for _ in range(len(examples))]
    for found in phrases[phrases["flagged"]].itertuples():
        holds = texts_with(words, str(found.phrase))
        for row in holds[labels[holds] == found.label]:
            reasons[row].append(f"holds “{found.written}”")
    first = words.ids[np.flatnonzero(words.ids == START) + 1]
    for found in openings[openings["flagged"]].itertuples():
        begins = first == words.spelling.index(str(found.opening))
        for row in np.flatnonzero(begins & (labels == found.label)):
            reasons[row].append(f"begins with “{found.written}”")
    chosen = np.array([bool(reason) for reason in reasons], dtype=bool)
    table = examples.assign(reasons=["; ".join(reason) for reason in reasons])
    return table.loc[chosen, COLUMNS].reset_index(drop=True)


def texts_with(words: WrittenWords, phrase: str) -> np.ndarray:
    """The numbers of the texts that hold ``phrase``, as ``WrittenWords.written`` writes it."""
    return np.unique(words.rows[words.positions(words.phrase(phrase))])
