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
    import pandas as pd


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
            InputError: The table is not there, is no parquet table, or lacks a column; an id is
                missing, no whole number, or there twice; or an image cannot be read.
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
        ids = self._checked(table["example_id"]).tolist()
        where = [f"poison.ssba.encoded {self._path}, example_id {i}" for i in ids]
        return dict(zip(ids, pixels.decode(table["image"].tolist(), where), strict=True))

    def _checked(self, ids: pd.Series) -> pd.Series:
        where = f"poison.ssba.encoded {self._path}"
        if ids.isna().any():
            row = ids.isna().to_numpy().argmax() + 1
            raise InputError(
                f"{where}, row {row}: has no example_id; fill it in, or delete the row"
            )
        if ids.dtype.kind not in "iu":
            raise InputError(f"{where}: the column example_id holds {ids.dtype}, not whole numbers")
        if (twice := ids.duplicated()).any():
            row = twice.to_numpy().argmax()
            raise InputError(
                f"{where}, row {row + 1}: the example_id {ids.iloc[row]} stands in an earlier row, "
                "too; delete one of them"
            )
        return ids

    def save(self, data: None) -> None:
        raise DatasetError(f"{type(self).__name__} is read only")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"encoded": str(self._path) if self._path else None}
