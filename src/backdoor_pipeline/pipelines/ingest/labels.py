"""Labels of any scalar type as class numbers."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from backdoor_pipeline.errors import InputError

_WHOLE = re.compile(r"([+-]?[0-9]+)(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
_FEW = 20  # up to this many classes are never taken for a column of measurements


def numbered(
    rows: pd.DataFrame, label_names: tuple[str, ...] | None, source: str
) -> tuple[pd.DataFrame, list[str]]:
    """Returns the rows with ``label`` 0 .. C-1 (int64), and the name of each class.

    Numbers, also those written as text or as 1.0, keep their order; other labels are sorted by
    name. Where ``label_names`` is given, the labels are class numbers already.

    Args:
        rows: with ``label``, of any scalar type.
        label_names: the name of each class number, where the source knows them.
        source: what the rows are called, for the messages.

    Raises:
        InputError: a class number without name, or hardly two rows with the same label.
    """
    codes, raw = pd.factorize(rows["label"])
    if (codes < 0).any():
        raise InputError(
            f"{source}: the label of example {(codes < 0).argmax()} is missing; fill it in"
        )
    names = [_canonical(label) for label in raw]
    if label_names is not None:
        numbers = {str(number): number for number in range(len(label_names))}
        if unknown := [name for name in names if name not in numbers]:
            raise InputError(
                f"{source}: label {unknown[0]!r} is unknown; the labels are 0 to "
                f"{len(label_names) - 1}"
            )
        ordered = list(label_names)
    else:
        ordered = _ordered(set(names))
        numbers = {name: number for number, name in enumerate(ordered)}
        if len(ordered) > _FEW and 2 * len(ordered) > len(rows):
            swapped = "text" in rows and rows["text"].nunique() < len(ordered)
            raise InputError(
                f"{source}: the label column holds {len(ordered):,} different values in "
                f"{len(rows):,} rows; it seems not to be a class: set source.label"
                + (" (are text and label swapped?)" if swapped else "")
            )
    lookup = np.array([numbers[name] for name in names], dtype="int64")
    return rows.assign(label=lookup[codes]), ordered


def _canonical(label: object) -> str:
    """Returns the label's name; whole numbers alike, however they are written."""
    if isinstance(label, bool | np.bool_):
        return str(bool(label))
    name = str(label).strip()
    whole = _WHOLE.fullmatch(name)
    return str(int(whole.group(1))) if whole else name


def _ordered(names: set[str]) -> list[str]:
    are_numbers = all(_NUMBER.fullmatch(name) for name in names)
    return sorted(names, key=lambda name: (float(name) if are_numbers else 0.0, name))
