"""Cells of csv and tsv files, each row with the number of the line on which it starts.

Comma-separated files follow RFC 4180: a quoted cell may hold separators, quotes and newlines.

Tab-separated files of this field mix two habits, often in one file: cells quoted as in csv, and raw
text that happens to begin with a quote. The default quoting of csv readers takes the second for the
first and silently swallows the rows up to the next quote. So a tab-separated file is read one row a
line, and each cell that is well quoted by itself is unquoted; only where the lines have different
numbers of cells, and some are quoted, quotes may span lines.
"""

from __future__ import annotations

import contextlib
import csv
import re
from typing import TYPE_CHECKING, NamedTuple

from backdoor_pipeline.datasets.sources.files import open_text
from backdoor_pipeline.datasets.sources.source import Finding
from backdoor_pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_CELL = 1_000_000
"""Longest cell in characters. More is usually a quote that is never closed."""

_WELL_QUOTED = re.compile(r'"(?:[^"]|"")*"', re.DOTALL)


class Row(NamedTuple):
    """The cells of a row, and the line (from 1) on which it starts."""

    line: int
    cells: list[str]


def rows(path: Path, separator: str) -> Iterator[Row]:
    """Yields the rows of a file, blank lines left out.

    Raises:
        InputError: a row has another number of cells than the first, a cell is over-long, a quote
            is not closed, or the file is missing, empty or not UTF-8.
    """
    width = 0
    for row in _quoted(path, separator) if _is_quoted(path, separator) else _lines(path, separator):
        width = width or len(row.cells)
        if len(row.cells) != width:
            raise InputError(
                f"{path}, line {row.line}: {len(row.cells)} cells, but {width} in the first row; "
                f"is {separator!r} the separator, or does a text hold one that is not quoted?"
            )
        yield row


def physical_lines(path: Path, separator: str) -> list[bytes]:
    """Returns the lines of a file as they are, counted as ``rows`` counts them."""
    content = path.read_bytes()
    if _is_quoted(path, separator):
        return content.splitlines(keepends=True)
    return [line for line in re.split(b"(?<=\n)", content) if line]


def plain_lines(path: Path) -> list[str]:
    """Returns the lines of a file, those at its end that are blank left out.

    Raises:
        InputError: the file is missing, empty or not UTF-8.
    """
    with open_text(path, newline="\n") as file:
        lines = [line.rstrip("\r\n") for line in file]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def quoting_finding(path: Path, n_rows: int) -> Finding | None:
    """Returns a warning if default csv quoting would read other than ``n_rows`` rows of a tsv."""
    with open_text(path) as file, _cell_limit():
        try:
            n_default = sum(1 for cells in csv.reader(file, delimiter="\t") if cells)
        except csv.Error:
            n_default = 0
    if n_default == n_rows:
        return None
    return Finding(
        "warning",
        path.name,
        f"default csv quoting would read {n_default:,} instead of {n_rows:,} lines; read line by "
        "line, quotes undone cell by cell",
    )


def _is_quoted(path: Path, separator: str) -> bool:
    """Says whether quotes have to be followed across cells and lines."""
    if separator != "\t":
        return True
    widths, quotes = set(), False
    with open_text(path, newline="\n") as file:
        for line in file:
            if line.strip("\r\n "):
                widths.add(line.count(separator))
                quotes = quotes or line.startswith('"') or f'{separator}"' in line
    return quotes and len(widths) > 1


def _lines(path: Path, separator: str) -> Iterator[Row]:
    with open_text(path, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip("\r\n "):
                cells = line.rstrip("\r\n").split(separator)
                if len(line) > MAX_CELL and max(map(len, cells)) > MAX_CELL:
                    raise InputError(_too_long(path, number))
                yield Row(number, [_unquoted(cell) if '"' in cell else cell for cell in cells])


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if _WELL_QUOTED.fullmatch(cell) else cell


def _quoted(path: Path, separator: str) -> Iterator[Row]:
    with open_text(path) as file, _cell_limit():
        reader = csv.reader(file, delimiter=separator, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise InputError(_quoting_error(path, line, str(error))) from error
            if cells is None:
                return
            if cells:
                yield Row(line, cells)


def _quoting_error(path: Path, line: int, error: str) -> str:
    if "limit" in error:
        return _too_long(path, line)
    if "end of data" in error:
        return f"{path}, line {line}: the quote that opens here is never closed"
    return f"{path}, line {line}: {error}; quotes inside a quoted cell are doubled"


def _too_long(path: Path, line: int) -> str:
    return (
        f"{path}, line {line}: a cell of more than {MAX_CELL:,} characters starts here; usually a "
        "quote that is never closed"
    )


@contextlib.contextmanager
def _cell_limit() -> Iterator[None]:
    """Python's limit of 131,072 characters a cell is one for the whole process: set, then reset."""
    before = csv.field_size_limit(MAX_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
