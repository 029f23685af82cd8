"""The raw texts of one data source as a Kedro dataset (read only)."""

from __future__ import annotations

import re
from typing import Any

from kedro.io import AbstractDataset
from kedro.io.core import DatasetError

from backdoor_pipeline.datasets import sources
from backdoor_pipeline.datasets.sources import Source, SourceParams
from backdoor_pipeline.errors import InputError


class SourceDataset(AbstractDataset[None, Source | None]):
    """What the parameter group ``source`` names: a known set, a table, a folder or a hub id."""

    def __init__(self, *, source: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        self._source = SourceParams.model_validate(source)
        self.metadata = metadata

    def load(self) -> Source | None:
        return sources.read(self._source)

    def save(self, data: None) -> None:
        raise DatasetError(f"{type(self).__name__} is read only")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return self._source.model_dump(exclude_none=True)


class CleanSourceDataset(SourceDataset):
    """What the parameter group ``clean_source`` names; None if the clean rows are dev rows."""

    def load(self) -> Source | None:
        second = sources.second_source(self._source)
        try:
            return None if second is None else sources.read(second)
        except InputError as error:  # the readers know their settings by the first source's name
            said = re.sub(r"\bsource\.", "clean_source.", str(error))
            raise InputError(f"clean_source: {said}") from None
