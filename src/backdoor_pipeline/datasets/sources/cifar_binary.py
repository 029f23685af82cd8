"""CIFAR-10 and CIFAR-100 in the binary version that their authors publish.

A row is its label, one byte, or for CIFAR-100 a coarse and a fine one, and 3,072 bytes: the red,
the green and the blue pixels of 32 x 32, line by line (https://www.cs.toronto.edu/~kriz/cifar.html).
Of an archive, the members are read one by one; nothing is unpacked on the disk.

The "python version" is a pickle. A pickle is a program that runs when it is read, so it is refused.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from backdoor_pipeline.datasets.sources import files
from backdoor_pipeline.datasets.sources.known import KNOWN, Known
from backdoor_pipeline.datasets.sources.names import PICKLES
from backdoor_pipeline.datasets.sources.source import Source
from backdoor_pipeline.errors import InputError, did_you_mean
from backdoor_pipeline.modelling.pixels import COLOUR, encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backdoor_pipeline.datasets.sources.source import SourceParams

ARCHIVES = (".tar.gz", ".tgz", ".tar")

_SIDE = 32  # pixels
_PIXELS = COLOUR * _SIDE * _SIDE
_LARGEST = 2**28  # bytes of a file; the largest published one has 150 MB
_BATCH = re.compile(r"data_batch_([1-9][0-9]*)\.bin")
_OTHERS = re.compile(r"(test_batch|train|test)\.bin|(batches\.meta|(fine|coarse)_label_names)\.txt")


class _Labels(NamedTuple):
    """One kind of label: the file of its names, and how many there are."""

    names: str
    n_classes: int


class _Layout(NamedTuple):
    """The labels that a row starts with, a byte each, by their name; and the published rows."""

    labels: dict[str, _Labels]
    published: Known


_LAYOUTS = {
    "cifar10": _Layout(
        {"label": _Labels("batches.meta.txt", 10)},
        KNOWN["cifar10"],
    ),
    "cifar100": _Layout(
        {
            "coarse_label": _Labels("coarse_label_names.txt", 20),
            "fine_label": _Labels("fine_label_names.txt", 100),
        },
        Known((), rows={"train": 50_000, "test": 10_000}),
    ),
}


def read(params: SourceParams) -> Source:
    """Returns the splits, ``image`` (PNG) and ``label``, in the order of the files.

    ``params.label`` is ``label`` (of CIFAR-100 that means ``fine_label``), ``fine_label`` or
    ``coarse_label``.

    Raises:
        InputError: no such folder or archive, only the python version, files that are missing or
            not laid out as they should be, or a label that they do not have.
    """
    path = Path(params.data or "").expanduser()
    contents = _archived(path) if path.is_file() else _in_folder(path)
    name, batches = _batches(path, contents)
    labels, published = _LAYOUTS[name]
    chosen = list(labels)[-1] if params.label == "label" else params.label
    if chosen not in labels:
        raise InputError(
            f"{path}: has no label '{chosen}', which source.label asks for"
            f"{did_you_mean(chosen, labels)}"
        )
    tables = {
        split: pd.concat([_rows(path / one, contents[one], labels, chosen) for one in members])
        for split, members in batches.items()
    }
    return Source(
        name=name,
        tables={split: table.reset_index(drop=True) for split, table in tables.items()},
        files={place.name: files.sha256(place) for place in _files(path).values()},
        label_names=_class_names(path, contents, labels[chosen]),
        known=published,
        repaired=params.dataset.endswith("@repaired"),
    )


def digest(params: SourceParams) -> str:
    """Returns a digest of the archive or of the folder's files, or ``"missing"``."""
    return files.digest_of(_files(Path(params.data or "").expanduser()))


def _files(path: Path) -> dict[str, Path]:
    """Returns name -> the archive, or the files in the folder or in the one folder in it."""
    if path.is_file():
        return {path.name: path}
    for folder in (path, *sorted(child for child in path.glob("*/"))):
        found = {
            place.name: files.inside(place, path)
            for place in sorted(folder.glob("*"))
            if _is_wanted(place.name) and place.is_file()
        }
        if found:
            return found
    return {}


def _in_folder(path: Path) -> dict[str, bytes]:
    """Returns name -> content of the files in a folder."""
    found = _files(path)
    if not path.exists():
        raise InputError(f"{path}: no such folder or archive")
    if not found:
        _refuse_pickles(path, (place.name for place in path.rglob("*") if place.is_file()))
    for place in found.values():
        _check_bytes(place, place.stat().st_size)
    return {name: place.read_bytes() for name, place in found.items()}


def _archived(path: Path) -> dict[str, bytes]:
    """Returns name -> content of the members of an archive."""
    if not path.name.endswith(ARCHIVES):
        raise InputError(
            f"{path}: give the folder of the CIFAR files, or their archive ({', '.join(ARCHIVES)})"
        )
    found: dict[str, bytes] = {}
    others = []
    try:
        with tarfile.open(path, "r:" if path.suffix == ".tar" else "r:gz") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if not member.isfile() or not _is_wanted(name):
                    others += [name] if member.isfile() else []
                    continue
                if name in found:
                    raise InputError(f"{path}: holds two files {name}; keep one")
                _check_bytes(path / name, member.size)
                content = archive.extractfile(member)
                found[name] = content.read() if content else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: is not a readable archive ({error}); fetch it again") from None
    if not found:
        _refuse_pickles(path, others)
    return found


def _is_wanted(name: str) -> bool:
    return bool(_BATCH.fullmatch(name) or _OTHERS.fullmatch(name))


def _refuse_pickles(path: Path, names: Iterable[str]) -> None:
    pickle = next((name for name in sorted(names) if PICKLES.fullmatch(name)), None)
    if pickle is not None:
        raise InputError(
            f"{path}: is the python version of CIFAR ({pickle}), a pickle: reading it could run "
            "any program hidden in it; give the binary version (cifar-10-binary.tar.gz, "
            "cifar-100-binary.tar.gz), or parquet files with the images"
        )


def _check_bytes(where: Path, n_bytes: int) -> None:
    if n_bytes > _LARGEST:
        raise InputError(f"{where}: has {n_bytes:,} bytes, far more than any file of CIFAR")


def _batches(path: Path, names: Iterable[str]) -> tuple[str, dict[str, list[str]]]:
    """Returns the data set's name, and split -> its files in order."""
    present = set(names)
    numbers = {int(match[1]) for match in map(_BATCH.fullmatch, present) if match}
    if numbers:
        missing = set(range(1, max(numbers) + 1)) - numbers
        if missing:
            raise InputError(f"{path}: has no data_batch_{min(missing)}.bin; fetch it again")
        name, train = "cifar10", [f"data_batch_{number}.bin" for number in sorted(numbers)]
        test = "test_batch.bin"
    else:
        name, train, test = "cifar100", ["train.bin"], "test.bin"
        if "train.bin" not in present:
            raise InputError(
                f"{path}: has neither data_batch_1.bin (CIFAR-10) nor train.bin (CIFAR-100)"
            )
    return name, {"train": train} | ({"test": [test]} if test in present else {})


def _rows(where: Path, content: bytes, labels: dict[str, _Labels], chosen: str) -> pd.DataFrame:
    """Returns ``image`` and ``label`` of a file."""
    width = len(labels) + _PIXELS
    if not content or len(content) % width:
        raise InputError(
            f"{where}: {len(content):,} bytes are not a number of rows of {width:,} "
            f"({' and '.join(labels)}, then the pixels); the file is cut short or another: fetch "
            "it again"
        )
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, width)
    for column, (name, kind) in enumerate(labels.items()):
        if (wrong := rows[:, column] >= kind.n_classes).any():
            row = int(wrong.argmax())
            raise InputError(
                f"{where}, row {row + 1}: the {name} is {rows[row, column]}, not 0 to "
                f"{kind.n_classes - 1}; the file is another: fetch it again"
            )
    pixels = rows[:, len(labels) :].reshape(-1, COLOUR, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return pd.DataFrame(
        {
            "image": [encode(np.ascontiguousarray(image)) for image in pixels],
            "label": rows[:, list(labels).index(chosen)].astype(np.int64),
        }
    )


def _class_names(path: Path, contents: dict[str, bytes], labels: _Labels) -> tuple[str, ...] | None:
    """Returns the names of the classes; None if their file is not there."""
    if labels.names not in contents:
        return None
    try:
        names = contents[labels.names].decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path / labels.names}: is not UTF-8 ({error})") from None
    stripped = tuple(name.strip() for name in names if name.strip())
    if len(stripped) != labels.n_classes or len(set(stripped)) != len(stripped):
        raise InputError(
            f"{path / labels.names}: has {len(set(stripped))} names, not {labels.n_classes}, one a "
            "line; fetch it again"
        )
    return stripped
