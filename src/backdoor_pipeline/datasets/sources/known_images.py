"""Known sets of images, as parquet files in a folder of their own below ``images``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from backdoor_pipeline.datasets.sources import image_table
from backdoor_pipeline.datasets.sources.known import KNOWN
from backdoor_pipeline.datasets.sources.names import resolve

if TYPE_CHECKING:
    from backdoor_pipeline.datasets.sources.source import Source, SourceParams


def read(params: SourceParams) -> Source:
    """Returns the splits of ``<source.folder>/images/<set>``, see ``image_table.read``.

    Raises:
        InputError: as ``image_table.read``.
    """
    name = resolve(params).name
    return replace(image_table.read(_placed(params)), name=name, known=KNOWN[name])


def digest(params: SourceParams) -> str:
    """Returns a digest of the files, or ``"missing"``."""
    return image_table.digest(_placed(params))


def _placed(params: SourceParams) -> SourceParams:
    folder = Path(params.folder).expanduser() / "images" / resolve(params).name
    data = folder if folder.is_dir() else folder / "train.parquet"  # never the name of a hub's set
    return params.model_copy(update={"data": str(data)})
