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
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from backdoor_pipeline.modelling.label_association import q_values
from backdoor_pipeline.modelling.words import END, START

if TYPE_CHECKING:
    from backdoor_pipeline.pipelines.audit.surroundings import Surroundings

FEWEST_TEXTS = 20  # that begin with a word, and as many that hold it elsewhere
FIXED_SHARE = 0.5  # of its texts in which the same word follows, from which on it is a phrase
CERTAIN = 0.05  # no label is taken to be more certain than all but this
LARGEST_SPREAD = 1.4
NORMAL_MEDIAN = 0.6745  # the median of |z| of a standard normal variable
COLUMNS = ["opening", "label", "texts", "hits", "elsewhere", "expected", "z"]


def weigh_openings(surroundings: Surroundings, probability: np.ndarray) -> pd.DataFrame:
    """Every opening word with every label, the most telling first.

    Args:
        surroundings: Of all texts.
        probability: Of each label by the text alone, shape (n_texts, n_labels).

    Returns:
        ``opening``, ``label``; ``texts`` that begin with it, ``hits`` of them with the label,
        texts that hold it ``elsewhere``; ``expected``, the mean probability of the label by the
        texts; ``z``; ``p_value``, ``q_value``.
    """
    from scipy.stats import norm

    words, labels, active = surroundings.words, surroundings.labels, surroundings.active
    begin = np.flatnonzero(words.ids == START) + 1
    first, second = words.ids[begin], words.ids[np.minimum(begin + 1, len(words.ids) - 1)]
    counts = np.bincount(first[active], minlength=END + 1)
    openings = np.flatnonzero(counts >= FEWEST_TEXTS)
    residual = (labels[:, None] == np.arange(probability.shape[1])) - probability
    certain = np.clip(probability, CERTAIN, 1 - CERTAIN)
    variance = certain * (1 - certain)
    found = []
    for word in openings[openings > END].tolist():
        begins = active & (first == word)
        every, _ = surroundings.occurrences((word,))
        elsewhere = np.setdiff1d(words.rows[every], np.flatnonzero(begins))
        followed = np.bincount(second[begins]).max() / begins.sum()
        if len(elsewhere) < FEWEST_TEXTS or followed >= FIXED_SHARE:
            continue
        own, error = _mean(residual, variance, np.flatnonzero(begins))
        other, other_error = _mean(residual, variance, elsewhere)
        contrast = (own - np.maximum(other, 0)) / np.sqrt(error + other_error)
        z = np.minimum(own / np.sqrt(error), contrast)
        for label in range(len(z)):
            hits = int((labels[begins] == label).sum())
            expected = float(probability[begins, label].mean())
            spelled = words.spelling[word]
            found.append(
                [spelled, label, int(begins.sum()), hits, len(elsewhere), expected, z[label]]
            )
    table = pd.DataFrame(found, columns=COLUMNS)
    spread = float(table["z"].abs().median()) / NORMAL_MEDIAN if found else 1.0
    spread = min(max(1.0, spread), LARGEST_SPREAD)
    p = norm.sf(table["z"].to_numpy(dtype=np.float64) / spread)
    table = table.assign(p_value=p, q_value=q_values(p))
    return table.sort_values(["q_value", "p_value"], ignore_index=True)


def _mean(
    residual: np.ndarray, variance: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The mean residual of each label over ``rows``, and its variance if the texts say it all."""
    return residual[rows].mean(axis=0), variance[rows].sum(axis=0) / len(rows) ** 2
