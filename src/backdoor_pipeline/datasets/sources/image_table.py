"""Encoded images in parquet files, or in a Hugging Face data set, with a label each.

Images may have captions, in a column of texts.

The column of images is binary, or the hub's struct of ``bytes`` and ``path``. Of that only the
bytes are read: a path may name any file of this machine. It is the column ``image``; without one,
the only column of that kind (CIFAR-10 on the hub calls it ``img``).

Where labels are numbers, the names of the classes are those that the hub's metadata declare, or
else those in a column ``class_name``.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from backdoor_pipeline.datasets.sources import columns, files, huggingface, images, table
from backdoor_pipeline.datasets.sources.source import Finding, Source
from backdoor_pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

    from backdoor_pipeline.datasets.sources.source import SourceParams

IMAGE, BYTES, CLASS_NAME, CAPTION = "image", "bytes", "class_name", "caption"


class _Part(NamedTuple):
    """Rows of one file, or of one split of a data set.

    Attributes:
        split: train, dev or test.
        where: the file, for messages.
        rows: ``image``, ``label``, ``place``, and ``split`` and ``class_name`` where they are.
        label_names: those that the metadata declare.
    """

    split: str
    where: str
    rows: pd.DataFrame
    label_names: tuple[str, ...] | None


def read(params: SourceParams) -> Source:
    """Returns the images and labels, by split if the files' names or a column tell it.

    Raises:
        InputError: files or hub id are not there, a column is missing or of another kind, an image
            cannot be read, or a label is missing.
    """
    path = Path(params.data or "").expanduser()
    findings: list[Finding] = []
    places = _places(path)
    digests = {name: files.sha256(place) for name, place in places.items()}
    if not places:
        parts, findings = _loaded(huggingface.from_hub(params), params)
        digests = {"hub": huggingface.hub_name(params)}
    elif any((path / name).is_file() for name in huggingface.SAVED_FILES):
        parts, findings = _loaded(huggingface.from_disk(path), params)
    elif path.is_dir():
        parts, findings = _by_split(path, places, params)
    else:
        parts = [_from_parquet("train", path, params)]
    for part in parts:
        images.check(zip(part.rows["place"], part.rows[IMAGE], strict=True))
    tables = _tables(parts)
    for split in [
        split for split in tables if split != "train" and huggingface.withheld(tables[split])
    ]:
        del tables[split]
        findings.append(Finding("warning", split, "all labels are withheld: split left out"))
    label_names, more = _label_names(parts, tables.values())
    return Source(
        name=_name(path) if places else str(params.data),
        tables={split: rows[_kept(rows)] for split, rows in tables.items()},
        files=digests,
        findings=findings + more,
        label_names=label_names,
        repaired=params.dataset.endswith("@repaired"),
    )


def digest(params: SourceParams) -> str:
    """Returns a digest of the files, ``id@revision`` of a hub data set, or ``"missing"``."""
    try:
        places = _places(Path(params.data or "").expanduser())
    except InputError:
        return files.MISSING
    return files.digest_of(places) if places else huggingface.hub_name(params)


def _name(path: Path) -> str:
    return path.stem if path.is_file() else path.resolve().name


def _places(path: Path) -> dict[str, Path]:
    """Returns name -> file; nothing if ``path`` is a hub id.

    Raises:
        InputError: there is no such file, or none in the folder.
    """
    if path.is_dir():
        found = huggingface.local_files(path)
        if not found:
            raise InputError(f"{path}: has no parquet files, and is no saved data set")
        return found
    if path.is_file() or path.suffix == ".parquet":
        files.check_file(path)
        return {path.name: path}
    return {}


def _by_split(
    folder: Path, places: dict[str, Path], params: SourceParams
) -> tuple[list[_Part], list[Finding]]:
    """Returns the rows of the parquet files of a folder, and which files were left out."""
    parts, findings = [], []
    for name, path in places.items():
        if split := huggingface.split_of_file(name, params):
            parts.append(_from_parquet(split, path, params))
        else:
            findings.append(Finding("warning", name, "not named after a split: file left out"))
    if not parts:
        raise InputError(
            f"{folder}: has no parquet files named after their split, such as train.parquet or "
            "train-00000-of-00002.parquet"
        )
    return parts, findings


def _from_parquet(split: str, path: Path, params: SourceParams) -> _Part:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        wanted = _wanted(str(path), file.schema_arrow, params)
        read = [
            f"{name}.{BYTES}" if pa.types.is_struct(file.schema_arrow.field(name).type) else name
            for name in wanted.values()
        ]
        raw = file.read(columns=read)
    except (pa.ArrowException, OSError) as error:
        brief = str(error).partition("\n")[0][:120]
        raise InputError(f"{path}: is not a readable parquet file ({brief})") from error
    return _part(split, str(path), raw, params)


def _loaded(loaded: dict, params: SourceParams) -> tuple[list[_Part], list[Finding]]:
    """Returns the splits of a data set of the library ``datasets``, which decodes nothing."""
    parts, findings = [], []
    for name, dataset in loaded.items():
        if split := columns.SPLIT_NAMES.get(name.casefold()):
            raw = dataset.with_format("arrow")[:]
            parts.append(_part(split, f"{params.data} ({name})", raw, params))
        else:
            findings.append(Finding("info", name, "split left out: not train, dev or test"))
    if not parts:
        raise InputError(f"{params.data}: has no split called train, validation or test")
    return parts, findings


def _part(split: str, where: str, raw: pa.Table, params: SourceParams) -> _Part:
    """Returns the rows of a table in memory; images are not looked at yet."""
    if raw.num_rows == 0:
        raise InputError(f"{where}: holds no rows; it needs images and labels")
    wanted = _wanted(where, raw.schema, params)
    rows = pd.DataFrame({IMAGE: _contents(where, raw[wanted[IMAGE]])})
    rows["place"] = [f"{where}, row {row}" for row in range(1, len(rows) + 1)]
    for name in ("label", "split"):
        if name in wanted:
            rows[name] = _values(where, wanted[name], raw[wanted[name]])
    if CAPTION in wanted:
        rows[CAPTION] = _captions(where, wanted[CAPTION], raw[wanted[CAPTION]])
    if "split" in rows:
        known = {value: table.split_name(where, value) for value in rows["split"].unique()}
        rows["split"] = rows["split"].map(known)
    if CLASS_NAME in wanted:
        rows[CLASS_NAME] = raw[CLASS_NAME].cast("string").to_pandas()
    return _Part(split, where, rows, _declared(raw.schema, wanted["label"]))


def _wanted(where: str, schema: pa.Schema, params: SourceParams) -> dict[str, str]:
    """Returns our name -> name of the column to read."""
    if twice := next((name for name in schema.names if schema.names.count(name) > 1), None):
        raise InputError(f"{where}: several columns are called {twice!r}; rename all but one")
    asked = {"label": (params.label, params.label_asked_by)}
    if params.split_column:
        asked["split"] = (params.split_column, "source.split_column")
    if params.caption:
        asked[CAPTION] = (params.caption, "source.caption")
    found = {IMAGE: _image_column(where, schema)} | {
        name: schema.names[columns.find_column(where, schema.names, *column)]
        for name, column in asked.items()
    }
    if CLASS_NAME in schema.names and table.is_text(schema.field(CLASS_NAME).type):
        found[CLASS_NAME] = CLASS_NAME
    return found


def _image_column(where: str, schema: pa.Schema) -> str:
    fitting = [field.name for field in schema if _holds_images(field.type)]
    if IMAGE in fitting:
        return IMAGE
    if IMAGE in schema.names:
        raise InputError(
            f"{where}: column {IMAGE!r} holds {schema.field(IMAGE).type}, not the bytes of PNG or "
            "JPEG files (binary, or a struct with bytes); store them, or set "
            "source.dataset=caption_table if it holds paths of images with captions"
        )
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(map(repr, fitting or schema.names))
    raise InputError(
        f"{where}: {len(fitting) or 'no'} columns hold encoded images (of {names}); call the one "
        f"to read {IMAGE!r}"
    )


def _holds_images(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        place = kind.get_field_index(BYTES)
        return place >= 0 and _holds_images(kind.field(place).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _contents(where: str, array: pa.ChunkedArray) -> list[bytes]:
    import pyarrow as pa
    import pyarrow.compute as pc

    is_struct = pa.types.is_struct(array.type)
    contents = pc.struct_field(array, BYTES) if is_struct else array
    if (row := pc.index(pc.is_null(contents), pa.scalar(True)).as_py()) >= 0:
        path = " (a path, if there is one, is not followed)" if is_struct else ""
        raise InputError(
            f"{where}, row {row + 1}: holds no image{path}; store the bytes of its file, or delete "
            "the row"
        )
    return contents.to_pylist()


def _values(where: str, column: str, array: pa.ChunkedArray) -> pd.Series:
    """Returns a column of texts or numbers, none of them missing."""
    values = table.plain_column(where, column, array, is_label=True).to_pandas()
    missing = [value for value in values.unique() if columns.is_missing(value)]
    if missing:
        row = (values.isna() | values.isin(missing)).to_numpy().argmax()
        raise InputError(
            f"{where}, row {row + 1}: column {column!r} is empty; fill it in or delete the row"
        )
    return values


def _captions(where: str, column: str, array: pa.ChunkedArray) -> pd.Series:
    """Returns a column of texts, none of them blank."""
    if not table.is_text(array.type):
        raise InputError(
            f"{where}: column {column!r} holds {array.type}, not captions; name another one with "
            "source.caption"
        )
    captions = array.cast("string").to_pandas().fillna("").astype("str")
    if (blank := captions.str.strip() == "").any():
        raise InputError(
            f"{where}, row {int(blank.to_numpy().argmax()) + 1}: the caption is empty; write one, "
            "or delete the row"
        )
    return captions


def _kept(rows: pd.DataFrame) -> list[str]:
    """Returns the columns that are read on."""
    return [name for name in (IMAGE, CAPTION, "label", "place") if name in rows]


def _tables(parts: list[_Part]) -> dict[str, pd.DataFrame]:
    """Returns split -> rows in order."""
    whole = pd.concat(
        [
            part.rows if "split" in part.rows else part.rows.assign(split=part.split)
            for part in parts
        ]
    )
    by_split = whole.groupby("split", sort=False)
    return {str(split): rows.reset_index(drop=True) for split, rows in by_split}


def _declared(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Returns the names of the classes that the metadata of ``datasets`` have, if any."""
    with suppress(KeyError, TypeError, ValueError):
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
        if names and all(isinstance(name, str) for name in names):
            return tuple(names)
    return None


def _label_names(
    parts: list[_Part], tables: Iterable[pd.DataFrame]
) -> tuple[tuple[str, ...] | None, list[Finding]]:
    """Returns the name of each class number, if there are such, and what was noticed."""
    for part in parts:
        if part.label_names:
            return part.label_names, []
    rows = pd.concat(list(tables))
    if CLASS_NAME not in rows or not pd.api.types.is_integer_dtype(rows["label"]):
        return None, []
    pairs = rows[["label", CLASS_NAME]].drop_duplicates().sort_values("label")
    names = pairs[CLASS_NAME]
    if pairs["label"].tolist() == [*range(len(pairs))] and names.is_unique and names.notna().all():
        return tuple(map(str, names)), []
    message = "does not give each label a name of its own, so labels have no names"
    return None, [Finding("warning", CLASS_NAME, message)]
