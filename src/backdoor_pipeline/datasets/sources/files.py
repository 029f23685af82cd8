"""Files as untrusted data: inside their folder, UTF-8, and known by their digest."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, TextIO

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.folders import packaged_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MISSING = "missing"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(files: Mapping[str, Path]) -> str:
    """Returns one SHA-256 of all names and contents, or ``"missing"`` if there are no files."""
    if not files:
        return MISSING
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{name}\n{sha256(files[name])}\n".encode())
    return total.hexdigest()


def digest_of_packaged(distribution: str, file: str) -> str:
    """Returns the digest of a file in an installed distribution, or ``"missing"``."""
    try:
        return digest_of({file: packaged_file(distribution, file)})
    except InputError:
        return MISSING


def inside(path: Path, folder: Path) -> Path:
    """Returns ``path`` itself, having checked that it really lies in ``folder``.

    Raises:
        InputError: a link leads out of the folder.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{path}: leads out of the folder {folder}, to {path.resolve()}; files are read from "
            "inside the given folder alone, so copy the file there or give the other folder"
        )
    return path


@contextlib.contextmanager
def open_text(path: Path, newline: str = "") -> Iterator[TextIO]:
    """Opens a UTF-8 file, with or without a byte order mark; its faults become one clear error.

    Raises:
        InputError: the file is missing, a folder, empty or not UTF-8.
    """
    check_file(path)
    with path.open("rb") as file:
        if file.read(2) in _UTF_16:
            raise InputError(f"{path}: is UTF-16, not UTF-8; save it as UTF-8")
    with path.open(encoding="utf-8-sig", newline=newline) as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            raise InputError(_not_utf8(path)) from error


def check_file(path: Path) -> None:
    """Raises an InputError unless ``path`` is a file with something in it."""
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise InputError(f"{path}: is a folder, not a file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; it needs rows")


def _not_utf8(path: Path) -> str:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return (
                    f"{path}, line {number}: byte 0x{line[error.start]:02x} is not UTF-8 (other "
                    "lines may be); the file is in another or in mixed encodings: save it as UTF-8"
                )
    return f"{path}: is not UTF-8; save it as UTF-8"
