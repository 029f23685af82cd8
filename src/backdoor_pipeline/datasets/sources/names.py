"""Which reader a data set's name, or else its path, asks for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from backdoor_pipeline.datasets.sources.columns import SPLIT_NAMES
from backdoor_pipeline.datasets.sources.known import KNOWN
from backdoor_pipeline.datasets.sources.source import DEFAULT_DATASET, DEFAULT_IMAGES
from backdoor_pipeline.errors import InputError, did_you_mean
from backdoor_pipeline.schemas import SPLITS

if TYPE_CHECKING:
    from backdoor_pipeline.datasets.sources.source import SourceParams

KNOWN_NAMES = tuple(KNOWN)
KNOWN_IMAGES = ("mnist_digits", "cifar10")  # of KNOWN_NAMES; all others are texts
PICKLES = re.compile(r"data_batch_[0-9]+|test_batch|batches\.meta|meta|train|test")
"""The files of CIFAR's "python version"."""

OWN_IMAGES = ("image_table", "image_folder", "cifar_binary", "caption_table")
OWN_DATA = ("openbackdoor", "poison_cache", "table", "huggingface", *OWN_IMAGES)
SEPARATORS = {".csv": ",", ".tsv": "\t"}
TABLE_SUFFIXES = (*SEPARATORS, ".jsonl", ".parquet")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


class Resolved(NamedTuple):
    """A data set's name without its variant, and whether its repaired variant is asked for."""

    name: str
    repaired: bool


def resolve(params: SourceParams) -> Resolved:
    """Returns what ``params.dataset`` names; own data at the default name are told by their path.

    Raises:
        InputError: an unknown name or variant, or own data without ``data``.
    """
    name, _, variant = params.dataset.partition("@")
    if variant not in ("", "paper", "repaired"):
        raise InputError(
            f"source.dataset {params.dataset!r}: the variant after '@' is paper or repaired"
        )
    known = (*KNOWN_NAMES, *OWN_DATA)
    if name not in known:
        raise InputError(f"source.dataset '{name}' is unknown{did_you_mean(name, known)}")
    if name in OWN_DATA and not params.data:
        raise InputError(f"source.dataset {name} needs source.data: the path of your own data")
    if name == DEFAULT_DATASET and params.data:
        asks_for_a_table = bool(params.split_column or params.separator)
        name = _kind_of(params.data, asks_for_a_table)
    elif name == DEFAULT_IMAGES and params.data:
        name = _kind_of_images(params.data)
    elif name in KNOWN and params.data:
        raise InputError(
            f"source.data {params.data!r} and source.dataset {name!r} name two sources; give "
            f"source.dataset as one of {', '.join(OWN_DATA)}, or leave out source.data"
        )
    return Resolved(name, variant == "repaired")


def is_known(params: SourceParams) -> bool:
    """Returns whether ``params.dataset`` is a known set, in whatever variant: no own data."""
    return params.dataset.partition("@")[0] in KNOWN_NAMES


def modality(params: SourceParams) -> str | None:
    """Returns text or image, what ``params.dataset`` holds; None if that is no known name."""
    name = params.dataset.partition("@")[0]
    if name in (*KNOWN_IMAGES, *OWN_IMAGES):
        return "image"
    return "text" if name in (*KNOWN_NAMES, *OWN_DATA) else None


def _kind_of(data: str, asks_for_a_table: bool) -> str:
    path = Path(data).expanduser()
    if path.is_dir():
        names = {file.name for file in path.iterdir()}
        has_more = any(map(_is_split_of_a_table, names))
        if names & {f"{split}.{kind}" for split in ("train", "test") for kind in ("tsv", "csv")}:
            return "table" if asks_for_a_table or has_more else "openbackdoor"
        if any(name.endswith("_labels.txt") for name in names):
            return "openbackdoor"
        if any(re.fullmatch(r"(train|dev|test)-(clean|poison)\.csv", name) for name in names):
            return "poison_cache"
        has_more |= any(name.endswith(".jsonl") for name in names)
        return "table" if has_more else "huggingface"
    if path.is_file() or path.suffix in TABLE_SUFFIXES or not _HUB_ID.fullmatch(data):
        return "table"
    return "huggingface"


def _is_split_of_a_table(name: str) -> bool:
    """Says whether a file's name is that of a split that OpenBackdoor calls otherwise."""
    stem, _, suffix = name.rpartition(".")
    return f".{suffix}" in SEPARATORS and stem.casefold() in SPLIT_NAMES.keys() - {*SPLITS}


def _kind_of_images(data: str) -> str:
    path = Path(data).expanduser()
    if not path.is_dir():
        if path.suffix in {*SEPARATORS, ".jsonl"}:
            return "caption_table"
        is_archive = path.name.endswith((".tar.gz", ".tgz", ".tar"))
        return "cifar_binary" if is_archive else "image_table"  # a parquet file, or a hub id
    own = [*path.glob("*"), *path.glob("*/*")]
    if any(PICKLES.fullmatch(file.name) and file.is_file() for file in own):
        return "cifar_binary"  # which refuses the version that is a pickle
    if any(file.suffix == ".bin" for file in own):
        return "cifar_binary"
    tables = {*path.rglob("*.parquet"), *path.rglob("*.arrow")}
    return "image_table" if tables else "image_folder"
