"""A table (csv, tsv, jsonl, parquet) of image files with a caption and a label each.

    image,title,label                 as CleanCLIP has it, with the labels besides
    images/1.png,a photo of a cat,cat

Files are named from the folder of the table on, and lie in it: a path may name any file of this
machine, so none is followed that leads out of that folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from backdoor_pipeline.datasets.sources import files, images, table
from backdoor_pipeline.datasets.sources.columns import Content
from backdoor_pipeline.datasets.sources.source import Finding, Source
from backdoor_pipeline.errors import InputError

if TYPE_CHECKING:
    from backdoor_pipeline.datasets.sources.source import SourceParams

CAPTIONS = Content("source.caption", "caption")
IMAGES = Content("source.image", "image's path")


def read(params: SourceParams) -> Source:
    """Returns the images, captions and labels, by split if ``split_column`` tells it.

    Raises:
        InputError: the table or a column is missing, a caption is blank or a label missing, an
            image is not there, lies elsewhere, or cannot be read.
    """
    path = Path(params.data or "").expanduser()
    rows, findings = _read(path, params, _caption(params), CAPTIONS)
    names = _read(path, params, params.image, IMAGES)[0]["text"]
    places = [f"{path}, row {row}: {name}" for row, name in enumerate(names, start=1)]
    contents = [
        _place(path.parent, name, at).read_bytes() for name, at in zip(names, places, strict=True)
    ]
    images.check(zip(places, contents, strict=True))
    rows = rows.rename(columns={"text": "caption"}).assign(image=contents, place=places)
    splits = rows.get("split", pd.Series("train", index=rows.index))
    kept = ["image", "caption", "label", "place"]
    return Source(
        name=path.stem,
        tables={
            str(split): part[kept].reset_index(drop=True)
            for split, part in rows.groupby(splits, sort=False)
        },
        files={path.name: files.sha256(path), "images/": _digest(path.parent, names)},
        findings=findings,
        repaired=params.dataset.endswith("@repaired"),
    )


def digest(params: SourceParams) -> str:
    """Returns a digest of the table and of all images that it names, or ``"missing"``."""
    path = Path(params.data or "").expanduser()
    if not path.is_file():
        return files.MISSING
    names = _read(path, params, params.image, IMAGES)[0]["text"]
    try:
        named = _named(path.parent, names)
    except InputError:
        return files.MISSING
    return files.digest_of({path.name: path, **named})


def _caption(params: SourceParams) -> str:
    if params.caption is None:
        raise InputError(
            f"source.caption is not set: name the column of {params.data} that holds the captions"
        )
    return params.caption


def _read(
    path: Path, params: SourceParams, column: str, content: Content
) -> tuple[pd.DataFrame, list[Finding]]:
    """Returns the table with this column as its ``text``."""
    return table.read_file(path, params.model_copy(update={"text": column}), content=content)


def _place(folder: Path, name: str, where: str) -> Path:
    """Where an image lies; nothing is asked of a path that leads out of the folder."""
    try:
        place = (folder / name).resolve()
        is_inside = place.is_relative_to(folder.resolve())
        is_there = is_inside and place.is_file()
    except (OSError, ValueError):  # a name that no file can have
        is_inside, is_there = True, False
    if not is_inside:
        raise InputError(f"{where}: leads out of {folder}, where the table lies; put the image in")
    if not is_there:
        raise InputError(f"{where}: there is no such file in {folder}; add it, or delete the row")
    return place


def _named(folder: Path, names: pd.Series) -> dict[str, Path]:
    return {name: _place(folder, name, name) for name in names}


def _digest(folder: Path, names: pd.Series) -> str:
    return files.digest_of(_named(folder, names))
