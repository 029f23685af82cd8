"""Of a user's table the rows that an audit keeps, everything as it was, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from backdoor_pipeline.datasets.sources import SourceParams, table
from backdoor_pipeline.datasets.sources.names import resolve
from backdoor_pipeline.datasets.whole import WholeDataset

if TYPE_CHECKING:
    from kedro.io.core import Version

TABLE = "table"


class CleanedTableDataset(WholeDataset):
    """A folder with the rows of the table of the parameter group ``source`` that an audit keeps.

    These are the rows that it examined and does not remove. Files keep their names, formats,
    columns and the bytes of these rows. Of a source that is no
    table file, or is repaired, the folder has one parquet file of ``split``, ``text``, ``label``.

    What is saved are the ``examples`` with a column ``removed``, and the names of the labels.

    Args:
        source: The parameter group ``source``.
    """

    def __init__(
        self,
        *,
        filepath: str,
        source: dict[str, Any],
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=filepath, version=version, metadata=metadata)
        self._source = SourceParams.model_validate(source)

    def _read(self, path: Path) -> list[str]:
        """The names of the files."""
        return sorted(file.name for file in path.iterdir())

    def _write(self, data: tuple[pd.DataFrame, list[str]], path: Path) -> None:
        examples, label_names = data
        kept = examples[~examples["removed"]]
        path.mkdir()
        kind = resolve(self._source)
        if kind.name != TABLE or kind.repaired:  # which leaves rows out of its own
            names = kept["label"].map(dict(enumerate(label_names)))
            kept.assign(label=names)[["split", "text", "label"]].to_parquet(
                path / "cleaned.parquet", index=False
            )
            return
        places = table.places(self._source)  # file and row of each example, by its id
        for file, ids in places.items():
            others = np.flatnonzero(~np.isin(ids, kept["example_id"]))
            table.write_without(file, self._source, others, path / file.name)
