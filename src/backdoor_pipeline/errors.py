"""The one error that tells a user what is wrong with the input and what to do about it."""

from __future__ import annotations


class InputError(ValueError):
    """Bad data, a bad model folder or a bad parameter.

    The message names the file, row, column or parameter, the value found there, and the remedy.
    The command line prints the message alone, without a traceback.
    """
