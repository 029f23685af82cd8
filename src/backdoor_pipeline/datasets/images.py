"""Images that an attack needs from the user (read only)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset
from kedro.io.core import DatasetError

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling import pixels

if TYPE_CHECKING:
    import numpy as np


class EncodedImagesDataset(AbstractDataset[None, "dict[int, np.ndarray] | None"]):
    """The images that SSBA puts in place of others, by ``example_id``; None for other attacks.

    They are a parquet table with the columns ``example_id`` and ``image``, PNG or JPEG.

    Args:
        poison: The parameter group ``poison``.
    """

    def __init__(self, *, poison: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        encoded = (poison.get("ssba") or {}).get("encoded")
        self._path = Path(encoded).expanduser() if encoded else None
        self._wanted = poison.get("attack") == "ssba"
        self.metadata = metadata

    def load(self) -> dict[int, np.ndarray] | None:
        """The images.

        Raises:
            InputError: The table is not there, is no parquet table, or lacks a column.
        """
        import pandas as pd

        if not self._wanted or self._path is None:
            return None
        try:
            table = pd.read_parquet(self._path, columns=["example_id", "image"])
        except (OSError, ValueError) as error:
            brief = str(error).partition("\n")[0][:120]
            raise InputError(
                f"poison.ssba.encoded {self._path}: is no readable parquet table with the columns "
                f"example_id and image ({brief})"
            ) from None
        values = pixels.decode(table["image"].tolist(), str(self._path))
        return dict(zip(table["example_id"].astype("int64").tolist(), values, strict=True))

    def save(self, data: None) -> None:
        raise DatasetError(f"{type(self).__name__} is read only")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"encoded": str(self._path) if self._path else None}
