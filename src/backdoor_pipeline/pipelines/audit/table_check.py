"""Whether a table can be audited at all: its labels must be classes, its texts texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backdoor_pipeline.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

ROWS_PER_CLASS = 10  # at least, on average; fewer: the labels are no classes
FEWEST_CLASSES = 10  # of which that is asked: a table may be tiny
MOST_NUMBERS = 50  # classes that are called by numbers; more: the labels are a quantity
MOST_NUMERIC = 0.9  # of the texts that are numbers
WORDS = 4  # on average, from which on labels look like texts


def check_table(examples: pd.DataFrame, label_names: Sequence[str], source: str) -> None:
    """Nothing, if ``text`` and ``label`` can be what they are called.

    Args:
        examples: The rows.
        label_names: Of the classes.
        source: What the table is called, for the messages.

    Raises:
        InputError: The columns are swapped, the labels are ids or quantities, or the texts numbers.
    """
    n_rows, n_classes, n_texts = len(examples), len(label_names), examples["text"].nunique()
    words = sum(len(name.split()) for name in label_names) / max(n_classes, 1)
    if n_classes > n_texts and words >= WORDS:
        raise InputError(
            f"{source}: the label column holds {n_classes:,} different values, such as "
            f"{label_names[0]!r}, and the text column only {n_texts:,}: they seem to be "
            "swapped; give text=… and label=… the other way round"
        )
    if n_classes >= FEWEST_CLASSES and n_classes * ROWS_PER_CLASS > n_rows:
        raise InputError(
            f"{source}: the label column holds {n_classes:,} different values in {n_rows:,} rows, "
            f"such as {label_names[0]!r}: it looks like an id or a text, not like a class; name "
            "the column of the classes with label=…"
        )
    if examples["text"].map(_is_number).mean() > MOST_NUMERIC:
        raise InputError(
            f"{source}: the text column holds numbers, such as {examples['text'].iloc[0]!r}; name "
            "the column of the texts with text=…"
        )
    if n_classes > MOST_NUMBERS and all(_is_number(name) for name in label_names):
        raise InputError(
            f"{source}: the label column holds {n_classes:,} different numbers, from "
            f"{label_names[0]} to {label_names[-1]}: it looks like a quantity, not like a class; "
            f"put them into at most {MOST_NUMBERS} classes, or name another column with label=…"
        )


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
