"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from abc import abstractmethod
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from kedro.io.core import AbstractVersionedDataset, DatasetError, Version
from kedro_datasets._typing import JSONPreview, PlotlyPreview, TablePreview

PREVIEW_ROWS = 20
READ_ROWS = 20_000  # at a time
READ_BYTES = 2**20  # of a column, likewise


class WholeDataset(AbstractVersionedDataset[Any, Any]):
    """Base of the datasets below: written aside, then renamed into place.

    A run that is killed while it saves leaves only a hidden ``.part`` neighbour, which nobody
    reads; a reader never sees half a file.
    """

    def __init__(
        self,
        *,
        filepath: str,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.metadata = metadata
        super().__init__(PurePosixPath(filepath), version)

    @abstractmethod
    def _read(self, path: Path) -> Any:
        """The data at ``path``."""

    @abstractmethod
    def _write(self, data: Any, path: Path) -> None:
        """Put the data at ``path``, which does not exist yet."""

    def load(self) -> Any:
        return self._read(Path(self._get_load_path()))

    def save(self, data: Any) -> None:
        write_whole(Path(self._get_save_path()), lambda path: self._write(data, path))

    def _exists(self) -> bool:
        try:
            return Path(self._get_load_path()).exists()
        except DatasetError:
            return False

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "version": self._version}


def write_whole(final: Path, write: Any) -> None:
    """Let ``write`` fill a path beside ``final``, then rename it to ``final``.

    Raises:
        DatasetError: The folder cannot be written or the disk is full; nothing is left behind.
    """
    part = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)
        write(part)
        if final.is_dir():
            retired = part.with_suffix(".old")
            final.rename(retired)
            part.rename(final)
            shutil.rmtree(retired)
        else:
            part.replace(final)
    except OSError as error:
        _remove(part)
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST} and final.is_dir():
            return  # another run was quicker: under the same name it wrote the same
        raise DatasetError(
            f"cannot write {final}: {error.strerror or error}; free some space, or let data_dir "
            "(`--params data_dir=…`) name a folder that you may write to"
        ) from error
    except BaseException:
        _remove(part)
        raise


def write_json(path: Path, data: Any, *, default: Any = None) -> None:
    """Write ``data`` as JSON, whole: keys in the order they were given, non-ASCII as is.

    Args:
        path: Where to.
        data: What JSON can hold; numbers must be finite.
        default: What to write for a value of any other type; None: an error.
    """
    write_whole(path, lambda part: part.write_text(_json(data, default), encoding="utf-8"))


def _json(data: Any, default: Any = None) -> str:
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=default)
    return f"{text}\n"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


class TableDataset(WholeDataset):
    """A table as parquet, checked against its schema when it is saved.

    Args:
        schema: Name of a schema in ``backdoor_pipeline.schemas``.
    """

    def __init__(self, *, schema: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._schema = schema

    def _read(self, path: Path) -> pd.DataFrame:
        """In blocks of rows, so that images are not in memory twice, as bytes and as they came."""
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES) as file:
            blocks = [block.to_pandas() for block in file.iter_batches(READ_ROWS)]
            blocks = blocks or [file.schema_arrow.empty_table().to_pandas()]
        return pd.concat(blocks, ignore_index=True)

    def _write(self, data: pd.DataFrame, path: Path) -> None:
        check_table(data, self._schema).to_parquet(path, index=False)

    def preview(self) -> TablePreview:
        rows = _first_rows(Path(self._get_load_path()), PREVIEW_ROWS)
        rows = rows.map(lambda value: f"<{len(value):,} bytes>" if type(value) is bytes else value)
        return TablePreview(rows.astype(object).where(rows.notna(), None).to_dict(orient="split"))


def _first_rows(path: Path, n: int) -> pd.DataFrame:
    """At most ``n`` rows of a parquet file, of which no more is read than they take."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path, memory_map=True) as file:
        rows = next(file.iter_batches(n), None)
        return (file.schema_arrow.empty_table() if rows is None else rows).to_pandas()


def check_table(data: pd.DataFrame, schema: str) -> pd.DataFrame:
    """``data``, if it has the columns, types and values of the named schema.

    Raises:
        DatasetError: It has not; the message names schema, column, check and a failing value.
    """
    import pandera.errors

    from backdoor_pipeline import schemas

    try:
        return getattr(schemas, schema).validate(data)
    except (pandera.errors.SchemaError, pandera.errors.SchemaErrors) as error:
        raise DatasetError(f"this table is no '{schema.lower()}' table: {error}") from None


class JSONDataset(WholeDataset):
    """A JSON file, keys in the order they were given, non-ASCII as is."""

    def _read(self, path: Path) -> Any:
        return json.loads(path.read_text(encoding="utf-8"))

    def _write(self, data: Any, path: Path) -> None:
        path.write_text(_json(data), encoding="utf-8")

    def preview(self) -> JSONPreview:
        return JSONPreview(Path(self._get_load_path()).read_text(encoding="utf-8"))


class TextDataset(WholeDataset):
    """A UTF-8 text file, such as the HTML report."""

    def _read(self, path: Path) -> str:
        return path.read_text(encoding="utf-8")

    def _write(self, data: str, path: Path) -> None:
        path.write_text(data, encoding="utf-8")


class FigureDataset(WholeDataset):
    """A plotly figure as JSON, drawn by kedro-viz."""

    def _read(self, path: Path) -> Any:
        import plotly.io

        return plotly.io.from_json(path.read_text(encoding="utf-8"))

    def _write(self, data: Any, path: Path) -> None:
        path.write_text(data.to_json(), encoding="utf-8")

    def preview(self) -> PlotlyPreview:
        return PlotlyPreview(json.loads(Path(self._get_load_path()).read_text(encoding="utf-8")))
