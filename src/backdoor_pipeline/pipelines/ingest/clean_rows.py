"""Clean rows of a second source, in the classes of the data, with texts that are not in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.pipelines.ingest import integrity, labels

if TYPE_CHECKING:
    from collections.abc import Sequence


def out_of_domain(
    rows: pd.DataFrame,
    names: tuple[str, ...] | None,
    classes: Sequence[str],
    examples: pd.DataFrame,
) -> tuple[pd.DataFrame, int]:
    """Returns the rows that may be learnt from, and how many were left out.

    Left out are rows whose text stands in ``examples``, in whatever split, or earlier in ``rows``;
    case and spacing make no difference. A label means the class of that name, or else, if it is a
    number (as in known sets), the class of that number.

    Args:
        rows: of the second source, with ``example_id``, ``text`` and ``label``.
        names: of its classes, if its labels are class numbers.
        classes: the names of the classes of ``examples``.
        examples: the data that is trained and tested on.

    Raises:
        InputError: a label is none of the classes.
    """
    try:
        rows, own = labels.numbered(rows, names)
    except InputError as error:
        raise InputError(f"clean_source: {error}") from None
    meant = {number: _class(name, number, names, own, classes) for number, name in enumerate(own)}
    codes = integrity.text_codes(pd.concat([examples["text"], rows["text"]], ignore_index=True))
    known = pd.Series(codes).duplicated().to_numpy()[len(examples) :]
    return rows.assign(label=rows["label"].map(meant).astype("int64"))[~known], int(known.sum())


def _class(
    name: str,
    number: int,
    names: tuple[str, ...] | None,
    own: Sequence[str],
    classes: Sequence[str],
) -> int:
    """Returns the class that a label of the second source means."""
    if set(own) <= set(classes):
        return list(classes).index(name)
    meant = number if names is not None else int(name) if name.isdecimal() else len(classes)
    if meant >= len(classes):
        raise InputError(
            f"clean_source: its label {name!r} is none of the classes, which are "
            f"{', '.join(map(repr, classes))}; name the labels alike, or number them from 0"
        )
    return meant
