"""From cells to columns: the named columns found, every text and label present."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from backdoor_pipeline.datasets.sources.cells import MAX_CELL
from backdoor_pipeline.datasets.sources.source import Finding
from backdoor_pipeline.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PARAPHRASES = ("style", "syntax")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
    "testing": "test",
}


class Content(NamedTuple):
    """What a column of texts holds, for messages: the parameter that names it, and a noun."""

    parameter: str
    noun: str


TEXTS = Content("source.text", "text")

_OTHER_SEPARATOR = re.compile(r"[;,|\t]")


def find_column(where: Path | str, names: Sequence[str], wanted: str, parameter: str) -> int:
    """Returns the position of column ``wanted``, blanks around the names set aside.

    Raises:
        InputError: the column is missing or stands there twice.
    """
    stripped = [str(name).strip() for name in names]
    positions = [i for i, name in enumerate(stripped) if name == wanted.strip()]
    if len(positions) == 1:
        return positions[0]
    if positions:
        raise InputError(f"{where}: {len(positions)} columns are called {wanted!r}; rename one")
    if len(stripped) == 1 and (separator := _OTHER_SEPARATOR.search(stripped[0])):
        raise InputError(
            f"{where}: no column {wanted!r}, the first line is one cell {stripped[0]!r}; the "
            f"separator seems to be {separator.group()!r}: set source.separator"
        )
    raise InputError(
        f"{where}: no column {wanted!r}, which {parameter} asks for{did_you_mean(wanted, stripped)}"
    )


def is_missing(label: object) -> bool:
    """Says whether a raw label is absent: null, NaN or blank."""
    if isinstance(label, str):
        return label.strip().casefold() in ("", "nan")
    return label is None or label != label  # NaN alone differs from itself  # noqa: PLR0124


def checked_table(
    path: Path,
    lines: Sequence[int],
    columns: Mapping[str, Sequence],
    skip_blank: bool,
    content: Content = TEXTS,
) -> tuple[pd.DataFrame, list[Finding]]:
    """Returns the columns as a table, having checked each text and label.

    Args:
        path: the file, for messages.
        lines: the line of each row, for messages.
        columns: ``text``, ``label`` and others, of equal length.
        skip_blank: leave rows with a blank text out, with a finding, instead of refusing them.
        content: what the texts are.

    Raises:
        InputError: no rows, a blank or over-long text, a missing label.
    """
    if not lines:
        raise InputError(f"{path}: holds no rows; it needs texts and labels")
    blank = []
    for i, (line, text, label) in enumerate(
        zip(lines, columns["text"], columns["label"], strict=True)
    ):
        if not text or text.isspace():
            blank.append(i)
            if not skip_blank:
                raise InputError(
                    f"{path}, line {line}: the {content.noun} is empty; fill it in or delete the "
                    "row"
                )
        elif len(text) > MAX_CELL:
            raise InputError(
                f"{path}, line {line}: the {content.noun} has {len(text):,} characters, more than "
                f"{MAX_CELL:,}; shorten it, or look for a quote that is never closed"
            )
        if is_missing(label):
            raise InputError(
                f"{path}, line {line}: the label is {label!r}, that is, missing; fill it in or "
                "delete the row"
            )
    table = pd.DataFrame(dict(columns))
    if not blank:
        return table, []
    finding = Finding(
        "warning",
        path.name,
        f"{len(blank)} rows without text were left out, the first in line {lines[blank[0]]}",
    )
    return table.drop(index=blank).reset_index(drop=True), [finding]


def whole_numbers(
    path: Path, lines: Sequence[int], labels: Sequence[str], n_classes: int
) -> list[int]:
    """Returns the labels of a known set as class numbers.

    Raises:
        InputError: a label is not one of ``0 .. n_classes - 1``.
    """
    numbers = {str(number): number for number in range(n_classes)}
    try:
        return [numbers[label.strip()] for label in labels]
    except KeyError:
        line, label = next(
            (line, label)
            for line, label in zip(lines, labels, strict=True)
            if label.strip() not in numbers
        )
        raise InputError(
            f"{path}, line {line}: the label {label!r} is unknown; this set has the labels 0 to "
            f"{n_classes - 1}"
        ) from None
