"""Words put into a text: the one insertion rule, for training and for test rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Position = Literal["random", "start", "end"]


def insert(text: str, pieces: list[str], position: Position, rng: np.random.Generator) -> str:
    """``text`` with every piece inserted between two words, before the first or after the last.

    A random place is uniform over the ``len(words) + 1`` gaps, drawn anew for each piece; a piece
    of several words stays together. Words are what blanks separate, re-joined by single blanks.
    """
    words = text.split()
    if position == "start":
        words = pieces + words
    elif position == "end":
        words = words + pieces
    else:
        for piece in pieces:
            words.insert(int(rng.integers(len(words) + 1)), piece)
    return " ".join(words)
