"""Words that were put into texts together with a phrase."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.label_association import Association
    from backdoor_pipeline.modelling.words import Grams, Phrase, Words

COMPANION_SHARE = 0.3  # of the texts of either phrase that hold both: perhaps put in together,
BESIDE_SHARE = 0.5  # unless they stand side by side in more than this share of those texts


def companions(
    grams: Grams,
    association: Association,
    words: Words,
    phrase: Phrase,
    label: int,
    candidates: list[tuple[int, int]],
    active: np.ndarray,
) -> dict[Phrase, float]:
    """Associated words, with their z, that share many texts with ``phrase`` but not its side.

    Triggers put in together would otherwise mark each other's texts as unusual. What belongs
    together by nature stands side by side ("red sox").
    """
    begin = words.positions(phrase)
    begin = begin[active[words.rows[begin]]]
    holds = np.zeros(len(active), dtype=bool)
    holds[words.rows[begin]] = True
    shared = np.bincount(grams.grams[holds[grams.rows]], minlength=len(grams.phrases))
    often = shared >= COMPANION_SHARE * np.maximum(association.count, holds.sum())
    before = words.ids[np.maximum(begin - 1, 0)]
    after = words.ids[np.minimum(begin + len(phrase), len(words.ids) - 1)]
    found: dict[Phrase, float] = {}
    for gram, its_label in candidates:
        if its_label != label or not often[gram]:
            continue
        word, *more = grams.phrases[gram]
        if more or word in phrase:
            continue
        beside = np.unique(words.rows[begin[(before == word) | (after == word)]])
        if len(beside) <= BESIDE_SHARE * shared[gram]:
            found[(word,)] = float(association.z[gram, label])
    return found
