"""The raw texts of one data source as a Kedro dataset (read only)."""

from __future__ import annotations

from typing import Any

from kedro.io import AbstractDataset
from kedro.io.core import DatasetError

from backdoor_pipeline.datasets import sources
from backdoor_pipeline.datasets.sources import Source, SourceParams


class SourceDataset(AbstractDataset[None, Source]):
    """What the parameter group ``source`` names: a known set, a table, a folder or a hub id."""

    def __init__(self, *, source: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        self._source = SourceParams.model_validate(source)
        self.metadata = metadata

    def load(self) -> Source:
        return sources.read(self._source)

    def save(self, data: None) -> None:
        raise DatasetError(f"{type(self).__name__} is read only")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return self._source.model_dump(exclude_none=True)
