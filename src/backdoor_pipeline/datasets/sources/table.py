"""A table file (csv, tsv, jsonl, parquet), or a folder with one such file a split."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from backdoor_pipeline.datasets.sources import cells, columns, files
from backdoor_pipeline.datasets.sources.names import SEPARATORS, TABLE_SUFFIXES, resolve
from backdoor_pipeline.datasets.sources.source import Finding, Source
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.schemas import SPLITS

if TYPE_CHECKING:
    import pyarrow as pa

    from backdoor_pipeline.datasets.sources.source import SourceParams

_SURROGATE = re.compile("[\ud800-\udfff]")  # json lets "\\ud800" through, UTF-8 does not
_SCALARS = (str, int, float, bool, type(None))


def read(params: SourceParams) -> Source:
    """Returns the rows of the table, by split if ``split_column`` or the files' names tell it.

    Columns of texts called ``style`` and ``syntax`` come along as ready-made paraphrases.

    Raises:
        InputError: a file that is missing or not what its name says, a column that is missing, a
            blank text, a missing label, a split or a label that is none.
    """
    repaired = resolve(params).repaired
    tables: dict[str, pd.DataFrame] = {}
    findings: list[Finding] = []
    paths = _paths(params)
    for split, path in paths.items():
        table, more = read_file(path, params, skip_blank=repaired)
        findings += more
        if "split" in table:
            tables |= {name: part.drop(columns="split") for name, part in _by_split(table)}
        else:
            tables[split] = table
    return Source(
        name=Path(params.data or "").expanduser().stem,
        tables=tables,
        files={path.name: files.sha256(path) for path in paths.values()},
        findings=findings,
        repaired=repaired,
    )


def digest(params: SourceParams) -> str:
    """Returns a digest of the file or files, or ``"missing"``."""
    try:
        paths = _paths(params)
    except InputError:
        return files.MISSING
    if not all(path.is_file() for path in paths.values()):
        return files.MISSING
    return files.digest_of({path.name: path for path in paths.values()})


def places(params: SourceParams) -> dict[Path, np.ndarray]:
    """Returns of each file the example id of each of its rows (as ``ingest`` counts them).

    Raises:
        InputError: see ``read``.
    """
    skip_blank = resolve(params).repaired
    splits, parts = [], []
    for number, (split, path) in enumerate(_paths(params).items()):
        rows, _ = read_file(path, params, skip_blank=skip_blank)
        own = rows["split"] if "split" in rows else pd.Series(split, index=rows.index)
        splits.append(own.map(SPLITS.index).to_numpy())
        parts.append(np.full(len(own), number))
    order = np.argsort(np.concatenate(splits), kind="stable")
    ids = np.empty(len(order), dtype=np.int64)
    ids[order] = np.arange(len(order))
    file = np.concatenate(parts)
    return {path: ids[file == number] for number, path in enumerate(_paths(params).values())}


def write_without(path: Path, params: SourceParams, removed: np.ndarray, target: Path) -> None:
    """Writes the file ``path`` to ``target`` without some rows, all others as they are.

    Args:
        path: a table file.
        params: how to read it.
        removed: the numbers of the rows to leave out, from 0.
        target: the new file.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows = pq.read_table(path)
        keep = np.ones(rows.num_rows, dtype=bool)
        keep[removed] = False
        pq.write_table(rows.filter(keep), target)
        return
    if path.suffix == ".jsonl":
        lines = [line for line in re.split(b"(?<=\n)", path.read_bytes()) if line]
        starts = [number for number, line in enumerate(lines) if line.strip()]
    else:
        separator = params.separator or SEPARATORS[path.suffix]
        lines = cells.physical_lines(path, separator)
        starts = [row.line - 1 for row in cells.rows(path, separator)][1:]  # without the header
    ends = [*starts[1:], len(lines)]
    kept = np.ones(len(lines), dtype=bool)
    for row in removed.tolist():
        kept[starts[row] : ends[row]] = False
    target.write_bytes(b"".join(line for line, keep in zip(lines, kept, strict=True) if keep))


def read_file(
    path: Path,
    params: SourceParams,
    skip_blank: bool = False,
    content: columns.Content = columns.TEXTS,
) -> tuple[pd.DataFrame, list[Finding]]:
    """Returns ``text``, ``label`` and, where they are, ``split``, ``style``, ``syntax`` of a file.

    Raises:
        InputError: see ``read``.
    """
    if path.suffix not in TABLE_SUFFIXES and not (path.is_file() and params.separator):
        packed = (
            "unpack it first"
            if path.suffix in (".gz", ".bz2", ".xz", ".zip")
            else ("convert it, or set source.separator if it is a text file")
        )
        files.check_file(path)
        raise InputError(
            f"{path}: {path.suffix or 'a file without extension'} is not read; tables are "
            f"{', '.join(TABLE_SUFFIXES)}: {packed}"
        )
    files.check_file(path)
    if path.suffix == ".parquet":
        return read_parquet(path, params, skip_blank, content)
    lines, values = (_jsonl if path.suffix == ".jsonl" else _delimited)(path, params, content)
    if "split" in values:
        values["split"] = [
            split_name(f"{path}, line {line}", value)
            for line, value in zip(lines, values["split"], strict=True)
        ]
    return columns.checked_table(path, lines, values, skip_blank, content)


def read_parquet(
    path: Path,
    params: SourceParams,
    skip_blank: bool = False,
    content: columns.Content = columns.TEXTS,
) -> tuple[pd.DataFrame, list[Finding]]:
    """Returns the same of a parquet file, read as columns.

    Raises:
        InputError: see ``read``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        wanted = [names[position] for position in _wanted(path, names, params, content).values()]
        raw = file.read(columns=wanted)
    except (pa.ArrowException, OSError) as error:
        brief = str(error).partition("\n")[0][:120]
        raise InputError(f"{path}: is not a readable parquet file ({brief})") from error
    return from_arrow(path, raw, params, skip_blank, content)


def from_arrow(
    where: Path | str,
    raw: pa.Table,
    params: SourceParams,
    skip_blank: bool,
    content: columns.Content = columns.TEXTS,
) -> tuple[pd.DataFrame, list[Finding]]:
    """Returns the same of a table in memory, checked without a Python object for each cell.

    Raises:
        InputError: see ``read``; rows are counted from 1.
    """
    import pyarrow.compute as pc

    names = raw.column_names
    arrays = {
        name: plain_column(where, names[position], raw.column(position), is_label=name == "label")
        for name, position in _wanted(where, names, params, content).items()
        if name not in columns.PARAPHRASES or is_text(raw.column(position).type)
    }
    if raw.num_rows == 0:
        raise InputError(f"{where}: holds no rows; it needs texts and labels")
    findings = []
    blank = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(arrays["text"], "")), "")
    if row := _first_true(blank):
        if not skip_blank:
            raise InputError(
                f"{where}, row {row}: the {content.noun} is empty; fill it in or delete the row"
            )
        arrays = {name: array.filter(pc.invert(blank)) for name, array in arrays.items()}
        message = f"{pc.sum(blank).as_py()} rows without text were left out, the first is row {row}"
        findings.append(Finding("warning", Path(where).name, message))
    if row := _first_true(pc.greater(pc.utf8_length(arrays["text"]), cells.MAX_CELL)):
        raise InputError(
            f"{where}, row {row}: the {content.noun} has more than {cells.MAX_CELL:,} characters; "
            "shorten it"
        )
    table = pd.DataFrame({name: array.to_pandas() for name, array in arrays.items()})
    if missing := [label for label in pd.unique(table["label"]) if columns.is_missing(label)]:
        here = table["label"].isna() | table["label"].isin(missing)
        said = repr(missing[0]) if isinstance(missing[0], str) else str(missing[0])
        raise InputError(
            f"{where}, row {here.to_numpy().argmax() + 1}: the label is {said}, that is, "
            "missing; fill it in or delete the row"
        )
    if "split" in table:
        known = {value: split_name(where, value) for value in pd.unique(table["split"])}
        table["split"] = table["split"].map(known)
    return table, findings


def _paths(params: SourceParams) -> dict[str, Path]:
    """Returns split -> file; a single file is the training data unless a column tells its splits.

    Raises:
        InputError: a folder without table files, or with two for one split.
    """
    root = Path(params.data or "").expanduser()
    if not root.is_dir():
        return {"train": root}
    found: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        split = columns.SPLIT_NAMES.get(path.stem.casefold())
        if path.suffix in TABLE_SUFFIXES and split:
            if split in found:
                raise InputError(f"{root}: both {found[split].name} and {path.name} are {split}")
            found[split] = files.inside(path, root)
    if not found:
        raise InputError(
            f"{root}: is a folder, not a table file, and has no train{{{','.join(TABLE_SUFFIXES)}}}"
            " in it; set source.data to the file"
        )
    return found


def _wanted(
    path: Path | str, names: list[str], params: SourceParams, content: columns.Content
) -> dict[str, int]:
    """Returns our name -> position of the columns to read."""
    wanted = {
        "text": columns.find_column(path, names, params.text, content.parameter),
        "label": columns.find_column(path, names, params.label, params.label_asked_by),
    }
    if params.split_column:
        wanted["split"] = columns.find_column(
            path, names, params.split_column, "source.split_column"
        )
    return wanted | {
        kind: names.index(kind)
        for kind in columns.PARAPHRASES
        if kind in names and names.index(kind) not in wanted.values()
    }


def _delimited(
    path: Path, params: SourceParams, content: columns.Content
) -> tuple[list[int], dict[str, list]]:
    separator = params.separator or SEPARATORS[path.suffix]
    if len(separator) != 1:
        raise InputError(f"source.separator {separator!r} must be one character")
    rows = cells.rows(path, separator)
    header = next(rows, None)
    if header is None:
        raise InputError(f"{path}: holds no rows; it needs texts and labels")
    wanted = _wanted(path, header.cells, params, content)
    lines: list[int] = []
    values: dict[str, list] = {name: [] for name in wanted}
    targets = [(values[name].append, position) for name, position in wanted.items()]
    for line, row in rows:
        lines.append(line)
        for append, position in targets:
            append(row[position])
    return lines, values


def _jsonl(
    path: Path, params: SourceParams, content: columns.Content
) -> tuple[list[int], dict[str, list]]:
    lines: list[int] = []
    values: dict[str, list] = {}
    names: dict[str, str] = {}
    with files.open_text(path, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            where = f"{path}, line {number}"
            record = _record(where, line)
            if not names:
                keys = list(record)
                wanted = _wanted(path, keys, params, content)
                names = {name: keys[i] for name, i in wanted.items()}
                values = {name: [] for name in names}
            lines.append(number)
            for name, column in names.items():
                noun = content.noun if name == "text" else name
                values[name].append(_cell(where, record, column, name, noun))
    return lines, values


def _record(where: str, line: str) -> dict:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON ({error}); jsonl has one object a line") from error
    if not isinstance(record, dict):
        raise InputError(
            f"{where}: holds {line.strip()[:40]!r}, not an object; jsonl has one a line"
        )
    return record


def _cell(where: str, record: dict, column: str, name: str, noun: str) -> object:
    if column not in record and name not in columns.PARAPHRASES:
        raise InputError(f"{where}: has no {column!r}; it has {', '.join(map(repr, record))}")
    value = record.get(column)
    if name in columns.PARAPHRASES and not isinstance(value, str):
        return None  # no paraphrase, whatever else the column may be
    if name == "text" and value is None:
        raise InputError(f"{where}: the {noun} is null; fill it in or delete the row")
    allowed = _SCALARS if name in ("label", "split") else (str, type(None))
    if not isinstance(value, allowed):
        kind = "one value" if name in ("label", "split") else "a text"
        raise InputError(
            f"{where}: {column!r} holds {str(value)[:40]!r} ({type(value).__name__}), not {kind}"
        )
    if isinstance(value, str) and not value.isascii() and _SURROGATE.search(value):
        raise InputError(f"{where}: {column!r} holds half a surrogate pair, which is no character")
    return value


def plain_column(
    where: Path | str, column: str, array: pa.ChunkedArray, is_label: bool
) -> pa.ChunkedArray:
    """Returns a parquet column as strings, or a label of any scalar type, decoded if need be.

    Raises:
        InputError: it holds something else.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    kind = array.type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not is_text(kind) and not (is_label and is_number):
        expected = "texts or numbers" if is_label else "texts"
        raise InputError(f"{where}: column {column!r} holds {kind}, not {expected}")
    return array


def is_text(kind: pa.DataType) -> bool:
    """Says whether a column of this type holds texts."""
    import pyarrow as pa

    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(value) or pa.types.is_large_string(value)


def _first_true(mask: pa.ChunkedArray) -> int:
    """Returns the row (from 1) of the first true value, 0 if there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.index(mask, pa.scalar(True)).as_py() + 1


def split_name(where: Path | str, value: object) -> str:
    """Returns train, dev or test, whichever ``value`` means.

    Raises:
        InputError: it means none of them.
    """
    split = columns.SPLIT_NAMES.get(str(value).strip().casefold())
    if split is None:
        raise InputError(
            f"{where}: the split {value!r} is none of {', '.join(columns.SPLIT_NAMES)}"
        )
    return split


def _by_split(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [
        (str(split), part.reset_index(drop=True))
        for split, part in table.groupby("split", sort=False)
    ]
