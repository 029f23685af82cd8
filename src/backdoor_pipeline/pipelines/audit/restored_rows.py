"""Suspicious rows that come back: without their phrase, with a label by what the other rows say.

Removed rows leave a gap. Those of an attack that changes labels all came from the other classes,
those of a clean-label attack from the target class; a model of what is left has learnt wrong class
frequencies, and knows less of the class that lost rows. The texts themselves are sound once the
phrase is cut out, only their labels are unknown. A classifier of the rows that are not suspicious,
on the frozen encoder, gives them one. It knows how frequent the classes are among its own rows, not
among these; their frequencies are those under which the texts are most probable, found by
expectation maximisation (Saerens, Latinne & Decaestecker, Neural Computation 14, 2002). If all come
from one class, nearly all are given it then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from backdoor_pipeline.modelling.words import EDGES, without
from backdoor_pipeline.pipelines.audit.cross_fit import regression

if TYPE_CHECKING:
    from backdoor_pipeline.pipelines.audit.contradicted_labels import Encode

MOST_ROWS = 5_000  # that the classifier learns from
FEWEST_ROWS = 20  # of a class among these
PENALTY = 1.0  # see ``regression``; at most that, so that probabilities are frequencies
STEPS = 200  # of the expectation maximisation, at most
SETTLED = 1e-6  # change of a frequency in a step below which it ends
TINY = 1e-12


def restored_rows(
    examples: pd.DataFrame,
    suspicious: pd.DataFrame,
    phrases: pd.DataFrame,
    openings: pd.DataFrame,
    encode: Encode,
    seed: int,
) -> pd.DataFrame:
    """The suspicious rows that hold a flagged phrase of their label, without it, labelled anew.

    Not those that are suspected for how they begin or end and still do so without the phrase: a
    template is more than its edges. Not those of a class that has fewer than ``FEWEST_ROWS`` left
    to learn from, either: no row would be given that label. And not those of the test split, which
    no model learns from.

    Args:
        examples: Of all splits.
        suspicious: Some of them.
        phrases: ``phrase``, ``label`` and ``flagged``.
        openings: ``opening``, ``label`` and ``flagged``.
        encode: Texts to vectors.
        seed: Of the sample that the classifier learns from.

    Returns:
        ``example_id``, ``split``, ``text`` and ``label``. None if there are not two classes to tell
        apart.
    """
    begins = openings.assign(phrase=f"{next(iter(EDGES))} " + openings["opening"])
    flagged = pd.concat([found[found["flagged"]] for found in (phrases, begins)])
    at_edge = np.array([not EDGES.keys().isdisjoint(p.split()) for p in flagged["phrase"]], bool)
    cut = _cut(suspicious, flagged[~at_edge])
    is_template = _cut(suspicious.assign(text=cut), flagged[at_edge]) != cut
    can_return = (cut != suspicious["text"]) & (cut != "") & ~is_template
    can_return &= suspicious["split"] != "test"
    rows = suspicious.assign(text=cut)[["example_id", "split", "text", "label"]][can_return]
    others = examples[~examples["example_id"].isin(suspicious["example_id"])]
    others = others[others["split"] == "train"]
    others = others.sample(min(MOST_ROWS, len(others)), random_state=seed)
    counts = others["label"].value_counts()
    classes = counts.index[counts >= FEWEST_ROWS]
    rows, others = (part[part["label"].isin(classes)] for part in (rows, others))
    if rows.empty or len(classes) == 1:
        return rows.head(0)
    judge = regression(PENALTY).fit(encode(others["text"].tolist()), others["label"])
    known = others["label"].value_counts(normalize=True)[judge.classes_].to_numpy()
    probability = judge.predict_proba(encode(rows["text"].tolist()))
    given = rows["label"].to_numpy()
    for label in np.unique(given):  # whoever poisoned one class may not have poisoned another
        probability[given == label] = reweighted(probability[given == label], known)
    return rows.assign(label=judge.classes_[probability.argmax(axis=1)]).reset_index(drop=True)


def _cut(rows: pd.DataFrame, phrases: pd.DataFrame) -> pd.Series:
    """The texts of ``rows`` without the phrases of their labels."""
    of_label = {label: own["phrase"].tolist() for label, own in phrases.groupby("label")}
    texts = [
        without(text, of_label.get(label, []))
        for text, label in zip(rows["text"], rows["label"], strict=True)
    ]
    return pd.Series(texts, rows.index, dtype="str")


def reweighted(probability: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Class probabilities of rows whose classes are as frequent as makes the rows most probable.

    Args:
        probability: By a classifier, shape (n_rows, n_classes).
        shares: Of the classes among the rows that it was trained on, shape (n_classes,).
    """
    likelihood = probability / np.maximum(shares, TINY)
    own = shares
    posterior = probability
    for _ in range(STEPS):
        posterior = likelihood * own
        posterior /= np.maximum(posterior.sum(axis=1, keepdims=True), TINY)
        before, own = own, posterior.mean(axis=0)
        if np.abs(own - before).max() < SETTLED:
            break
    return np.asarray(posterior)
