"""Clean rows of a second source, in the classes of the data, with texts that are not in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.pipelines.ingest import integrity, labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backdoor_pipeline.datasets.sources import Source


def out_of_domain(
    second: Source, rows: pd.DataFrame, classes: Sequence[str], examples: pd.DataFrame
) -> tuple[pd.DataFrame, int]:
    """Returns the rows that may be learnt from, and how many were left out.

    Left out are rows whose text stands in ``examples``, in whatever split, or earlier in ``rows``;
    case and spacing make no difference.

    Args:
        second: the second source.
        rows: all of its rows, with ``example_id``, ``split``, ``text`` and ``label``.
        classes: the names of the classes of ``examples``.
        examples: the data that is trained and tested on.

    Raises:
        InputError: a label is none of the classes.
    """
    rows, own = labels.numbered(rows, second.label_names, f"clean_source: {second.name}")
    meant = rows["label"].map(dict(enumerate(_meant(own, second.label_names, classes))))
    if (unknown := meant < 0).any():
        row = rows[unknown].iloc[0]
        raise InputError(
            f"clean_source: {_place(second, rows, row)}: its label {own[row['label']]!r} is none "
            f"of the classes, which are {', '.join(map(repr, classes))}; name the labels alike, or "
            "number them from 0 if the classes have names"
        )
    codes = integrity.text_codes(pd.concat([examples["text"], rows["text"]], ignore_index=True))
    known = pd.Series(codes).duplicated().to_numpy()[len(examples) :]
    return rows.assign(label=meant.astype("int64"))[~known], int(known.sum())


def _meant(own: Sequence[str], names: tuple[str, ...] | None, classes: Sequence[str]) -> list[int]:
    """Returns the class that each label of the second source means; -1: none.

    That of the same name. Only where no label has the name of a class, numbers mean the classes of
    these numbers: in known sets (``names``), or if the classes are not called by numbers.
    """
    by_name = {name: number for number, name in enumerate(classes)}
    called_by_numbers = any(name.isdecimal() for name in classes)
    if by_name.keys() & own or (names is None and called_by_numbers):
        return [by_name.get(name, -1) for name in own]
    numbers = [
        number if names is not None else int(name) if name.isdecimal() else -1
        for number, name in enumerate(own)
    ]
    return [number if number < len(classes) else -1 for number in numbers]


def _place(second: Source, rows: pd.DataFrame, row: pd.Series) -> str:
    """Returns file and row, counted from 1; with several splits, in its split."""
    file = next(iter(second.files)) if len(second.files) == 1 else second.name
    in_split = rows.loc[rows["split"] == row["split"], "example_id"]
    split = f"{row['split']} " if len(in_split) < len(rows) else ""
    return f"{file}, {split}row {(in_split <= row['example_id']).sum()}"
