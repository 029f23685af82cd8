"""Labels that clean rows contradict: evidence by examples, for triggers that are no words.

Whatever its trigger, a row of another class that an attacker gave the target label has a false
label. A classifier of the clean rows alone has learnt no backdoor. How little it believes the label
of a row is that row's loss. The losses of a class are compared with those of clean rows of the
class that the classifier has not seen: if nobody tampered with either, they are rows of one kind,
and the classifier is equally unsure of both. So this is a two-sample rank test, within each fold of
a cross-fit, added up over the folds (van Elteren, Bull. Inst. Int. Stat. 37, 1960). The folds share
training rows, so their statistics are not independent. How far that spreads the z-scores is
measured in the table itself: some of its rows play the clean ones, drawn anew each time. Whoever
tampered with the table tampered with both sides alike.

It tells false labels, not why they are false: careless annotators make some in every class. Rows
that have their label anyway (clean-label attacks) stay unseen, unless the attack makes them unlike
their class. The rows to suspect are those that are less believed than clean rows are, by conformal
p-values (Vovk et al., 2005), so many of them that about half may be wrongly suspected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from backdoor_pipeline.modelling.label_association import q_values
from backdoor_pipeline.pipelines.audit.cross_fit import FOLDS, folds, regression
from backdoor_pipeline.pipelines.audit.other_texts import MOST_APART, told_apart

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

FEWEST_TRUSTED = 20  # clean rows of a class; with fewer, nothing is said of it
MOST_ROWS = 10_000  # compared at first; the other rows are only read in a class with evidence
PENALTY = 0.1  # see ``regression``
WRONG_SHARE = 0.5  # of the suspected rows that may be clean
REHEARSALS = 20  # in which rows of the table play the clean ones
PLAYING = 3  # at most one in so many rows of a class plays a clean one
TINY = 1e-9
WRITTEN = "labels that clean rows contradict"
COLUMNS = ["label", "texts", "hits", "trusted", "less_believed", "z"]

Encode = Callable[[Sequence[str]], np.ndarray]  # texts to vectors, (n_texts, k)


class Contradictions(NamedTuple):
    """What clean rows say of the labels of a table.

    Attributes:
        labels: A row a class, the most contradicted first: ``label``; ``texts`` compared, and
            ``hits``, those to suspect; ``trusted`` rows; ``less_believed``, the chance that a row
            is less believed than a clean one (0.5: nobody tampered); ``z``, ``p_value``,
            ``q_value``, ``flagged``, ``written``.
        rows: The rows to suspect, of flagged classes: ``text``, ``label``, ``p_value``.
        told_apart: How well clean texts are told from the table's, see ``other_texts``; NaN if
            there was nothing to compare.
    """

    labels: pd.DataFrame
    rows: pd.DataFrame
    told_apart: float


def weigh_labels(
    table: pd.DataFrame,
    trusted: pd.DataFrame,
    encode: Encode | None,
    level: float,
    seed: int,
) -> Contradictions:
    """Whether the labels of a table are less believable than those of clean rows, class by class.

    Args:
        table: ``text`` and ``label``, int64 from 0.
        trusted: The same of rows known to be clean, drawn as those of the table were.
        encode: Texts to vectors. None: nothing is compared.
        level: Classes with a q-value of at most that are flagged.
        seed: Of folds and samples.

    Returns:
        Empty tables if nothing is compared: there must be two classes with ``FEWEST_TRUSTED`` clean
        rows each, and their texts must be of the table's kind (``other_texts.MOST_APART``).
    """
    known = comparable(trusted["label"])
    trusted = trusted[trusted["label"].isin(known)]
    table = table[table["label"].isin(known)].sample(frac=1, random_state=seed)
    if encode is None or not known or table.empty:
        return Contradictions(_finished([], level), _rows(table.head(0)), np.nan)
    first, later = table.head(MOST_ROWS), table.iloc[MOST_ROWS:]
    clean_vectors, clean_labels = encode(trusted["text"].tolist()), trusted["label"].to_numpy()
    vectors = encode(first["text"].tolist())
    apart = told_apart(clean_vectors, clean_labels, vectors, first["label"].to_numpy(), seed)
    if apart > MOST_APART:
        return Contradictions(_finished([], level), _rows(table.head(0)), apart)
    judges = _Judges(clean_vectors, clean_labels, seed)
    clean = trusted.assign(fold=judges.folds, belief=judges.held_out)
    spread = _spread(vectors, first["label"].to_numpy(), trusted["label"].value_counts(), seed)
    first = judges.judged(first, vectors)
    found = []
    for label in known:
        own, others = first[first["label"] == label], clean[clean["label"] == label]
        if not own.empty:
            less, z = rank_test(own, others)
            found.append([label, len(own), 0, len(others), less, z / spread[label]])
    labels = _finished(found, level)
    suspects = []
    for label in labels.loc[labels["flagged"], "label"]:
        compared, unread = (rows[rows["label"] == label] for rows in (first, later))
        if not unread.empty:
            read = judges.judged(unread, encode(unread["text"].tolist()))
            compared = pd.concat([compared, read])
        least = least_believed(compared, clean.loc[clean["label"] == label, "belief"].to_numpy())
        labels.loc[labels["label"] == label, "hits"] = len(least)
        suspects.append(least)
    rows = _rows(pd.concat(suspects) if suspects else table.head(0))
    return Contradictions(labels, rows, apart)


class _Judges:
    """Classifiers of the clean rows, each of which has not seen one fold of them.

    Attributes:
        folds: Of each clean row, shape (n,).
        held_out: Log-probability of each clean row's label, by the judge that has not seen it.
    """

    def __init__(self, vectors: np.ndarray, labels: np.ndarray, seed: int) -> None:
        self._judges: list[LogisticRegression] = []
        self.folds = np.empty(len(labels), dtype=np.int64)
        for fold, (seen, unseen) in enumerate(folds(seed).split(vectors, labels)):
            self._judges.append(regression(PENALTY).fit(vectors[seen], labels[seen]))
            self.folds[unseen] = fold
        self.held_out = self.belief(vectors, labels, self.folds)

    def judged(self, rows: pd.DataFrame, vectors: np.ndarray) -> pd.DataFrame:
        """Rows that no judge has seen, with a ``fold`` each and the ``belief`` in their labels."""
        fold = np.arange(len(rows)) % FOLDS
        return rows.assign(fold=fold, belief=self.belief(vectors, rows["label"].to_numpy(), fold))

    def belief(self, vectors: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
        """Log-probability of each row's label by the judge of its fold, shape (n,)."""
        belief = np.empty(len(labels))
        for fold, judge in enumerate(self._judges):
            rows = np.flatnonzero(folds == fold)
            if len(rows):
                column = np.searchsorted(judge.classes_, labels[rows])
                probability = judge.predict_proba(vectors[rows])[np.arange(len(rows)), column]
                belief[rows] = np.log(np.maximum(probability, TINY))
        return belief


def comparable(labels: pd.Series) -> list[int]:
    """The classes with enough clean rows to compare with; none, if there are not two of them."""
    counts = labels.value_counts()
    known = sorted(counts.index[counts >= FEWEST_TRUSTED])
    return known if len(known) > 1 else []


def _spread(
    vectors: np.ndarray, labels: np.ndarray, counts: pd.Series, seed: int
) -> dict[int, float]:
    """How far the z-scores of each class spread if rows of the table play the clean ones.

    At least 1, what it would be if folds were independent.

    Args:
        vectors: Of the table, shape (n, k).
        labels: Its labels, shape (n,).
        counts: Clean rows, by label: so many rows play them.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    rows_of = {int(label): np.flatnonzero(labels == label) for label in counts.index}
    playing = {
        label: min(int(counts[label]), len(rows) // PLAYING) for label, rows in rows_of.items()
    }
    played = [label for label, n in playing.items() if n >= FOLDS]
    squares: dict[int, list[float]] = {label: [] for label in rows_of}
    for rehearsal in range(REHEARSALS if len(played) > 1 else 0):
        drawn = np.concatenate([rng.permutation(rows_of[c])[: playing[c]] for c in played])
        left = np.setdiff1d(np.flatnonzero(np.isin(labels, played)), drawn)
        judges = _Judges(vectors[drawn], labels[drawn], seed + rehearsal)
        clean = pd.DataFrame({"fold": judges.folds, "belief": judges.held_out})
        rows = judges.judged(pd.DataFrame({"label": labels[left]}), vectors[left])
        for label in played:
            z = rank_test(rows[rows["label"] == label], clean[labels[drawn] == label])[1]
            squares[label].append(z**2)
    return {label: max(1.0, np.sqrt(np.mean(z))) if z else 1.0 for label, z in squares.items()}


def rank_test(rows: pd.DataFrame, clean: pd.DataFrame) -> tuple[float, float]:
    """How often a row is less believed than a clean one of its fold, and the z-score of that.

    Args:
        rows: ``fold`` and ``belief``.
        clean: The same.

    Returns:
        The Mann-Whitney estimate, folds weighted as van Elteren does; its standardised distance
        from a half. (0.5, 0) if no fold has both kinds.
    """
    from scipy.stats import rankdata

    chances, weights = [], []
    for fold in range(FOLDS):
        own = rows.loc[rows["fold"] == fold, "belief"].to_numpy()
        other = clean.loc[clean["fold"] == fold, "belief"].to_numpy()
        n, m = len(own), len(other)
        if n and m:
            ranks = rankdata(np.concatenate([other, own]))[:m].sum()
            chances.append((ranks - m * (m + 1) / 2) / (n * m))
            weights.append(12 * n * m / (n + m + 1))
    if not chances:
        return 0.5, 0.0
    chance = float(np.average(chances, weights=weights))
    return chance, float((chance - 0.5) * np.sqrt(np.sum(weights)))


def least_believed(rows: pd.DataFrame, clean: np.ndarray) -> pd.DataFrame:
    """The rows that are less believed than clean ones; one at least.

    Args:
        rows: ``belief`` of rows of one class.
        clean: Of clean rows of that class that the judges had not seen, shape (m,).

    Returns:
        Those rows, the least believed first, with their conformal ``p_value``.
    """
    below = np.searchsorted(np.sort(clean), rows["belief"], side="right")
    p = (1 + below) / (1 + len(clean))
    few = q_values(p) <= WRONG_SHARE
    few[rows["belief"].argmin()] = True
    return rows.assign(p_value=p)[few].sort_values("belief")


def _finished(found: list[list[float]], level: float) -> pd.DataFrame:
    from scipy.stats import norm

    labels = pd.DataFrame(found, columns=COLUMNS)
    p = norm.sf(labels["z"].to_numpy(dtype=np.float64))
    q = q_values(p)
    labels = labels.assign(p_value=p, q_value=q, flagged=q <= level, written=WRITTEN)
    return labels.sort_values("p_value", ignore_index=True)


def _rows(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.reindex(columns=["text", "label", "p_value"]).reset_index(drop=True)
