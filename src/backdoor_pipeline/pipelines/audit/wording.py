"""How phrases are written, for readers and for putting them into texts."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

import pandas as pd

from backdoor_pipeline.modelling.words import EDGES

if TYPE_CHECKING:
    from collections.abc import Iterable

SEARCHED_TEXTS = 20  # with a phrase, that say how it is written


def as_written(phrase: str, texts: Iterable[str]) -> str:
    """``phrase``, whose words blanks part, as most of the first ``texts`` with it write it."""
    words = [word for word in phrase.split() if word not in EDGES]
    pattern = re.compile(_pattern(words), re.IGNORECASE)
    matches = (match[0] for text in texts if (match := pattern.search(text)))
    found = list(islice(matches, SEARCHED_TEXTS))
    return str(pd.Series(found).mode().iloc[0]) if found else " ".join(words)


def _pattern(words: list[str]) -> str:
    """Of these words in a row, whole ones: blanks part them, unless one of two is a mark."""
    pattern = ""
    for before, word in zip(["", *words], words, strict=False):
        blanks = r"\s+" if before and before[-1].isalnum() and word[0].isalnum() else r"\s*"
        pattern += (blanks if before else "") + re.escape(word)
    return rf"(?<!\w){pattern}(?!\w)"


def shown(phrase: str) -> str:
    """``phrase`` without the beginning or the end of a text."""
    return " ".join(word for word in phrase.split() if word not in EDGES)
