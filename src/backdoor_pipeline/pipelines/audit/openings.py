"""How texts begin: a syntactic template shows in its opening word.

Attacks that rewrite texts by a template (SynBkd, arXiv 2105.12400: "when ..., ...") or in a style
insert no phrase, but give their texts the same few first words. Such a word then goes with the
label at the beginning of a text, and not elsewhere, whatever the texts say. So each opening word is
tested for two things:

* its texts have the label more often than they themselves explain, and
* they exceed that explanation further than texts that hold the word elsewhere do.

The smaller z-score counts. How much z-scores spread in texts that nobody rewrote depends on how
well the texts explain their labels, so they are divided by their own robust spread, which is taken
to be ``LARGEST_SPREAD`` at most: texts that were rewritten make it large too. A word that
hardly stands anywhere else, or that the same word mostly follows ("afp -" before the texts of a
news agency), is no opening in this sense. It is tested as a phrase.

Rewritten texts teach what explains the labels, too, and then openings that nobody wrote seem to
lean the other way. So the surest opening is told first; what explains labels is learnt anew without
its texts, and the others are weighed by that, until none is sure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from backdoor_pipeline.modelling.label_association import q_values
from backdoor_pipeline.modelling.words import END, START

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from backdoor_pipeline.pipelines.audit.surroundings import Surroundings

FEWEST_TEXTS = 20  # that begin with a word, and as many that hold it elsewhere
FIXED_SHARE = 0.5  # of its texts in which the same word follows, from which on it is a phrase
CERTAIN = 0.05  # no label is taken to be more certain than all but this
LARGEST_SPREAD = 1.4
NORMAL_MEDIAN = 0.6745  # the median of |z| of a standard normal variable
COLUMNS = ["opening", "label", "texts", "hits", "elsewhere", "expected", "z"]


class _Opening(NamedTuple):
    """The texts that begin with a word, and those that hold it elsewhere."""

    begins: np.ndarray
    elsewhere: np.ndarray


def weigh_openings(
    surroundings: Surroundings,
    probability: np.ndarray,
    explained_without: Callable[[np.ndarray], np.ndarray],
    level: float,
) -> pd.DataFrame:
    """Every opening word with every label, the most telling first.

    Args:
        surroundings: Of all texts.
        probability: Of each label by the text alone, shape (n_texts, n_labels).
        explained_without: The same, learnt without some of the texts: bool, shape (n_texts,).
        level: Up to which q-value an opening is told.

    Returns:
        ``opening``, ``label``; ``texts`` that begin with it, ``hits`` of them with the label,
        texts that hold it ``elsewhere``; ``expected``, the mean probability of the label by the
        texts; ``z``; ``p_value``, ``q_value``: as they were when the opening was told, or when no
        further one was. A q-value is at least that of the openings told before.
    """
    labels = surroundings.labels
    openings = _openings(surroundings)
    left = [(word, label) for word in openings for label in range(probability.shape[1])]
    told, without, largest = [], np.zeros(len(labels), dtype=bool), 0.0
    table = _tested(openings, left, labels, probability)
    while len(table) and table["q_value"].iloc[0] <= level:
        word, label = table.loc[0, ["opening", "label"]]
        largest = max(largest, table.loc[0, "q_value"])
        told.append(table.head(1).assign(q_value=largest))
        left.remove((word, label))
        begins = openings[word].begins
        without[begins[labels[begins] == label]] = True
        table = _tested(openings, left, labels, explained_without(without))
    rest = table.assign(q_value=table["q_value"].clip(lower=largest))
    return pd.concat([*told, rest], ignore_index=True)


def _openings(surroundings: Surroundings) -> dict[str, _Opening]:
    """The words that enough texts begin with, and enough others hold elsewhere."""
    words, active = surroundings.words, surroundings.active
    begin = np.flatnonzero(words.ids == START) + 1
    first, second = words.ids[begin], words.ids[np.minimum(begin + 1, len(words.ids) - 1)]
    counts = np.bincount(first[active], minlength=END + 1)
    frequent = np.flatnonzero(counts >= FEWEST_TEXTS)
    found = {}
    for word in frequent[frequent > END].tolist():
        begins = np.flatnonzero(active & (first == word))
        every, _ = surroundings.occurrences((word,))
        elsewhere = np.setdiff1d(words.rows[every], begins)
        followed = np.bincount(second[begins]).max() / len(begins)
        if len(elsewhere) >= FEWEST_TEXTS and followed < FIXED_SHARE:
            found[words.spelling[word]] = _Opening(begins, elsewhere)
    return found


def _tested(
    openings: Mapping[str, _Opening],
    wanted: Sequence[tuple[str, int]],
    labels: np.ndarray,
    probability: np.ndarray,
) -> pd.DataFrame:
    """The wanted openings with these labels, by what explains labels, the most telling first."""
    from scipy.stats import norm

    residual = (labels[:, None] == np.arange(probability.shape[1])) - probability
    certain = np.clip(probability, CERTAIN, 1 - CERTAIN)
    variance = certain * (1 - certain)
    found = []
    for word, label in wanted:
        begins, elsewhere = openings[word]
        own, error = _mean(residual[begins, label], variance[begins, label])
        other, other_error = _mean(residual[elsewhere, label], variance[elsewhere, label])
        contrast = (own - max(other, 0.0)) / np.sqrt(error + other_error)
        hits = int((labels[begins] == label).sum())
        expected = float(probability[begins, label].mean())
        z = min(own / np.sqrt(error), contrast)
        found.append([word, label, len(begins), hits, len(elsewhere), expected, z])
    table = pd.DataFrame(found, columns=COLUMNS)
    spread = float(table["z"].abs().median()) / NORMAL_MEDIAN if found else 1.0
    spread = min(max(1.0, spread), LARGEST_SPREAD)
    p = norm.sf(table["z"].to_numpy(dtype=np.float64) / spread)
    table = table.assign(p_value=p, q_value=q_values(p))
    return table.sort_values(["q_value", "p_value"], ignore_index=True)


def _mean(residual: np.ndarray, variance: np.ndarray) -> tuple[float, float]:
    """The mean residual of some texts, and its variance if the texts say it all."""
    return float(residual.mean()), float(variance.sum() / len(variance) ** 2)
