"""What the nodes of a recipe cost, as written beside their outputs (read only)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro.io.core import DatasetError


class CostsDataset(AbstractDataset[None, dict[str, dict[str, float]]]):
    """``{node: {"wall_seconds", "peak_memory_bytes"}}`` of the nodes that filled the given folders.

    Args:
        filepath: The folder that ``hooks.costs`` writes to.
        keys: Names of output folders, see ``keys``.
    """

    def __init__(
        self, *, filepath: str, keys: list[str], metadata: dict[str, Any] | None = None
    ) -> None:
        self._folder = Path(filepath)
        self._keys = keys
        self.metadata = metadata

    def load(self) -> dict[str, dict[str, float]]:
        files = (path for key in self._keys for path in sorted((self._folder / key).glob("*.json")))
        return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}

    def save(self, data: None) -> None:
        raise DatasetError(f"{type(self).__name__} is read only")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._folder), "keys": self._keys}
