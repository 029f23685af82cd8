"""A folder of images: a folder for each class, or for each split with folders of classes in it.

    root/train/cat/1.png    root/test/dog/2.jpg        or        root/cat/1.png    root/dog/2.jpg

Within a class, images may lie in folders of their own (Tiny ImageNet: ``n01443537/images``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from backdoor_pipeline.datasets.sources import columns, files, images
from backdoor_pipeline.datasets.sources.source import Finding, Source
from backdoor_pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backdoor_pipeline.datasets.sources.source import SourceParams

SUFFIXES = (".png", ".jpg", ".jpeg")


class _Image(NamedTuple):
    split: str
    name: str  # of its class
    path: Path


def read(params: SourceParams) -> Source:
    """Returns the splits, ``image`` (the file as it is) and ``label``; classes are sorted by name.

    Raises:
        InputError: no such folder, no images in it, a link that leads out of it, a class that has
            no training rows, or an image that cannot be read.
    """
    root = Path(params.data or "").expanduser()
    found, findings = _listed(root)
    contents = [image.path.read_bytes() for image in found]
    places = [str(image.path) for image in found]
    images.check(zip(places, contents, strict=True))
    names = sorted({image.name for image in found if image.split == "train"})
    numbers = {name: number for number, name in enumerate(names)}
    if stray := next((image for image in found if image.name not in numbers), None):
        raise InputError(
            f"{stray.path}: no training image has the class '{stray.name}'; add some, or remove it"
        )
    labels = [numbers[image.name] for image in found]
    table = pd.DataFrame({"image": contents, "label": labels, "place": places})
    rows = table.groupby([image.split for image in found], sort=False)
    splits = {str(split): part.reset_index(drop=True) for split, part in rows}
    return Source(
        name=root.resolve().name,
        tables=splits,
        files={
            f"{split}/": _digest(root, [image for image in found if image.split == split])
            for split in splits
        },
        findings=findings,
        label_names=tuple(names),
        repaired=params.dataset.endswith("@repaired"),
    )


def digest(params: SourceParams) -> str:
    """Returns a digest of all images and their places, or ``"missing"``."""
    root = Path(params.data or "").expanduser()
    try:
        found, _ = _listed(root)
    except InputError:
        return files.MISSING
    return _digest(root, found)


def _digest(root: Path, found: list[_Image]) -> str:
    return files.digest_of({image.path.relative_to(root).as_posix(): image.path for image in found})


def _listed(root: Path) -> tuple[list[_Image], list[Finding]]:
    """Returns all images, by split, class and name, and what was left out."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    found: list[_Image] = []
    splits, findings = _splits(root)
    others: list[Path] = []
    loose: list[Path] = []
    for folder in sorted({root, *splits.values()}):
        loose += [path for path in _inside(folder, root)[1] if _is_image(path)]
    for split, folder in splits.items():
        n_before = len(found)
        for of_class in _inside(folder, root)[0]:
            for path in _all_files(of_class, root):
                if _is_image(path):
                    found.append(_Image(split, of_class.name, path))
                else:
                    others.append(path)
        if len(found) == n_before:
            raise InputError(
                f"{folder}: no folder in it has images ({', '.join(SUFFIXES)}); each class needs a "
                "folder of its own, named after it"
            )
    if others:
        message = (
            f"{len(others):,} files are no {', '.join(SUFFIXES)} and were left out, the first is "
            f"{others[0].relative_to(root)}"
        )
        findings.append(Finding("warning", root.name, message))
    if loose:
        message = (
            f"{len(loose):,} images lie beside the folders of the classes, have none, and were "
            f"left out, the first is {loose[0].relative_to(root)}"
        )
        findings.append(Finding("warning", root.name, message))
    return found, findings


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _splits(root: Path) -> tuple[dict[str, Path], list[Finding]]:
    """Returns split -> its folder; all is training data if no folder is a split's.

    A split's folder has folders in it: with images alone, ``train`` is a class of vehicles.
    """
    found: dict[str, Path] = {}
    folders, findings = _inside(root, root)[0], []
    for folder in folders:
        split = columns.SPLIT_NAMES.get(folder.name.casefold())
        if split and _inside(folder, root)[0]:
            if split in found:
                raise InputError(f"{root}: both {found[split].name} and {folder.name} are {split}")
            found[split] = folder
    if not found:
        return {"train": root}, []
    if "train" not in found:
        raise InputError(f"{root}: has {', '.join(found)}, but no train; give the training images")
    for folder in folders:
        if folder not in found.values():
            findings.append(Finding("info", folder.name, "folder left out: not train, dev or test"))
    return found, findings


def _all_files(folder: Path, root: Path) -> Iterator[Path]:
    """Yields the files in a folder and in the folders in it."""
    folders, plain = _inside(folder, root)
    yield from plain
    for inner in folders:
        yield from _all_files(inner, root)


def _inside(folder: Path, root: Path) -> tuple[list[Path], list[Path]]:
    """Returns the folders and the files in a folder, by name, hidden ones left out.

    Raises:
        InputError: a link leads out of ``root``, or to a folder (which might hold the link); or
            something is neither a folder nor a file, and reading it might never end.
    """
    folders: list[Path] = []
    plain: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            path = Path(entry.path)
            if entry.is_symlink() and files.inside(path, root).is_dir():
                raise InputError(f"{path}: is a link to a folder; copy the folder there")
            if not (entry.is_dir() or entry.is_file()):
                raise InputError(f"{path}: is neither a folder nor a file; remove it")
            (folders if entry.is_dir() else plain).append(path)
    return folders, plain
