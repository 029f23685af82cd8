"""Splits that do not ship, and smaller ones: drawn with the classes in proportion."""

from __future__ import annotations

import numpy as np
import pandas as pd

from backdoor_pipeline.datasets.sources import Finding
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.schemas import SPLITS, content

DRAWS = 100  # of a cut by group, at most
CLOSE = 0.005  # how far size and label shares of a cut may be from what they should be
_STREAMS = {"test": 1, "dev": 2, "cap": 3}  # one random stream for each purpose


def cut_missing(
    rows: pd.DataFrame, codes: np.ndarray, dev_share: float, test_share: float, seed: int
) -> tuple[pd.DataFrame, list[Finding]]:
    """Returns the rows with a dev and a test split, cut from train where there was none.

    Rows of one ``group``, or else with equal texts or images, stay together, so that none of them
    and no group stands on both sides of a cut.

    Args:
        rows: with ``example_id``, ``split``, ``label`` and, if they are grouped, ``group``.
        codes: of each example id, the number of its text or image.
        dev_share: share of the training rows (after the test cut) for dev.
        test_share: share of the training rows for test.
        seed: of the draw.

    Raises:
        InputError: no training rows, or too few groups to cut.
    """
    if not (rows["split"] == "train").any():
        raise InputError(
            "there are no training rows; the source needs a train split (or only dev and test "
            "rows were left of it)"
        )
    findings = []
    for name, share in (("test", test_share), ("dev", dev_share)):
        if (rows["split"] == name).any():
            continue
        train = rows[rows["split"] == "train"]
        groups = train["group"] if "group" in rows else pd.Series(codes[train["example_id"]])
        draws = DRAWS if "group" in rows else 1
        labels = train["label"].to_numpy()
        chosen = _choose(pd.factorize(groups)[0], labels, share, seed, name, draws)
        taken = rows["example_id"].isin(train["example_id"].to_numpy()[chosen])
        rows = rows.assign(split=rows["split"].where(~taken, name))
        unit = "group" if "group" in rows else content(rows)
        message = f"no {name} split: {taken.sum():,} rows cut from train by {unit}, seeded"
        findings.append(Finding("info", name, message))
    return rows, findings


def capped(rows: pd.DataFrame, max_rows: int | None, seed: int) -> pd.DataFrame:
    """Returns at most ``max_rows`` rows of each split."""
    if max_rows is None:
        return rows
    kept = []
    for number, split in enumerate(SPLITS):
        part = rows[rows["split"] == split]
        generator = np.random.default_rng([seed, _STREAMS["cap"], number])
        kept.append(part.iloc[_in_proportion(part["label"].to_numpy(), generator)[:max_rows]])
    return pd.concat(kept)


def _choose(
    groups: np.ndarray, labels: np.ndarray, share: float, seed: int, name: str, draws: int
) -> np.ndarray:
    """Returns a mask of whole groups with about ``share`` of the rows, the labels in proportion.

    Groups hold several labels and many rows, so the best of several draws is taken, the first that
    is close (Morgan and Rubin, "Rerandomization to improve covariate balance in experiments",
    Annals of Statistics 2012).

    Args:
        groups: group number of each row, 0 .. G-1 in order of appearance.
        labels: of each row.
        share: of the rows.
        seed: of the draw.
        name: of the split to be cut, for messages.
        draws: at most.
    """
    _, first = np.unique(groups, return_index=True)
    if len(first) < 2:  # noqa: PLR2004  # something must stay
        raise InputError(f"too few different rows to cut a {name} split; add rows or a split")
    generator = np.random.default_rng([seed, _STREAMS[name]])
    of_group, shares = np.bincount(groups), _shares(labels, labels)
    best, smallest = np.empty(0, dtype=bool), np.inf
    for _ in range(draws):
        order = _in_proportion(labels[first], generator)
        n_groups = int(np.searchsorted(of_group[order].cumsum(), share * len(groups))) + 1
        chosen = np.isin(np.arange(len(first)), order[: min(n_groups, len(first) - 1)])[groups]
        off = _shares(labels[chosen], labels) - shares
        difference = np.abs([*off, chosen.mean() - share]).max()
        if difference < smallest:
            best, smallest = chosen, difference
        if difference <= CLOSE:
            break
    return best


def _shares(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The share of each label of ``known`` in ``labels``."""
    return np.bincount(labels, minlength=int(known.max()) + 1) / len(labels)


def _in_proportion(strata: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns a random order of the positions whose every beginning has the strata in proportion.

    Of a stratum of n, the k-th of a random order comes at (k + 1/2) / n of the way.
    """
    shuffled = generator.permutation(len(strata))
    stratum = pd.Series(strata[shuffled])
    place = stratum.groupby(stratum).cumcount() + 0.5
    size = stratum.map(stratum.value_counts())
    return shuffled[np.argsort((place / size).to_numpy(), kind="stable")]
