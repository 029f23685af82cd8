"""The one error that tells a user what is wrong with the input and what to do about it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class InputError(ValueError):
    """Bad data, a bad model folder or a bad parameter.

    The message names the file, row, column or parameter, the value found there, and the remedy.
    The command line prints the message alone, without a traceback.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What to add to an error about an unknown name: the nearest known one, or all of them."""
    known = sorted(known)
    folded = {one.casefold(): one for one in known}
    close = get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return f"; did you mean '{folded[close[0]]}'?" if close else f"; there are: {', '.join(known)}"
