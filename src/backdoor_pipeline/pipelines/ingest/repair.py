"""The repaired variant of a data set: no text on both sides of a split, no text with two labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.datasets.sources import Finding

if TYPE_CHECKING:
    import pandas as pd


def repaired(rows: pd.DataFrame, contents: np.ndarray) -> tuple[pd.DataFrame, list[Finding]]:
    """Returns the rows without those that leak between the splits, and what was removed.

    The test rows stay as published. Dev rows that stand in test are removed; a dev split that loses
    more than half of its rows so is dropped (a new one is cut from train). Then train rows that
    stand in test or dev are removed, and those whose text has another label elsewhere in train.

    Args:
        rows: with ``example_id``, ``split`` and ``label``.
        contents: of each example id, the number of its text or image.
    """
    findings = []
    codes = contents[rows["example_id"]]
    is_test, is_dev, is_train = (
        (rows["split"] == split).to_numpy() for split in ("test", "dev", "train")
    )
    leaked = is_dev & np.isin(codes, codes[is_test])
    if leaked.any():
        dropped = is_dev if 2 * leaked.sum() > is_dev.sum() else leaked
        why = f"{leaked.sum():,} of {is_dev.sum():,} dev rows stand in test"
        findings.append(Finding("info", "dev", f"{why}: {dropped.sum():,} dev rows removed"))
        is_dev = is_dev & ~dropped
    known = np.isin(codes, codes[is_test | is_dev]) & is_train
    if known.any():
        message = f"{known.sum():,} train rows removed that stand in test or dev"
        findings.append(Finding("info", "train", message))
        is_train = is_train & ~known
    labels = rows["label"].groupby(np.where(is_train, codes, -1)).transform("nunique").to_numpy()
    conflicting = is_train & (labels > 1)
    if conflicting.any():
        message = f"{conflicting.sum():,} train rows removed that stand in train with two labels"
        findings.append(Finding("info", "train", message))
    return rows[is_test | is_dev | (is_train & ~conflicting)], findings
