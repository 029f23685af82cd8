"""A data set of the Hugging Face hub by its id, or a local copy of one.

A local folder is what ``save_to_disk`` wrote, or a hub checkout with its parquet files. No loading
script is ever run: the ``datasets`` library has none since version 4, and local parquet is read
without it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from backdoor_pipeline.datasets.sources import columns, files, table
from backdoor_pipeline.datasets.sources.names import resolve
from backdoor_pipeline.datasets.sources.source import Finding, Source
from backdoor_pipeline.errors import InputError

if TYPE_CHECKING:
    from backdoor_pipeline.datasets.sources.source import SourceParams
    from datasets import Dataset

UNLABELLED = -1
"""Label of the hub's test sets whose labels are kept secret."""

SAVED_FILES = ("dataset_dict.json", "dataset_info.json", "state.json")
"""What tells a folder that ``save_to_disk`` wrote: one of these."""

_TIMEOUT = 5.0  # seconds until an unreachable hub counts as absent


def read(params: SourceParams) -> Source:
    """Returns the splits of a hub data set or of its local copy.

    Raises:
        InputError: the folder or id is not there, the hub cannot be reached, or a column is missing
            or of the wrong type.
    """
    folder, repaired = _folder(params), resolve(params).repaired
    label_names, digests = None, {"hub": hub_name(params)}
    if folder is None:
        tables, findings, label_names = _columns(from_hub(params), params, repaired)
    else:
        paths = local_files(folder)
        digests = {name: files.sha256(path) for name, path in paths.items()}
        if any((folder / name).is_file() for name in SAVED_FILES):
            tables, findings, label_names = _columns(from_disk(folder), params, repaired)
        else:
            tables, findings = _from_parquet(folder, paths, params, repaired)
    if not tables:
        raise InputError(
            f"source.data {params.data}: has no split called train, validation or test"
        )
    for split in [split for split in tables if split != "train" and withheld(tables[split])]:
        del tables[split]
        findings.append(Finding("warning", split, "all labels are withheld: split left out"))
    name = folder.resolve().name if folder else str(params.data)
    return Source(name, tables, digests, findings, label_names, repaired=repaired)


def digest(params: SourceParams) -> str:
    """Returns a digest of a local folder's files, or ``id@revision`` of a hub data set."""
    folder = _folder(params)
    return files.digest_of(local_files(folder)) if folder else hub_name(params)


def _columns(
    loaded: dict[str, Dataset], params: SourceParams, repaired: bool
) -> tuple[dict[str, pd.DataFrame], list[Finding], tuple[str, ...] | None]:
    """Returns the tables by split, what was noticed, and the names of the classes if declared."""
    tables, findings, label_names = {}, [], None
    for name, part in loaded.items():
        split = columns.SPLIT_NAMES.get(name.casefold())
        if split is None:
            findings.append(Finding("info", name, "split left out: not train, dev or test"))
            continue
        raw = part.with_format("arrow")[:]
        tables[split], more = table.from_arrow(f"{params.data} ({name})", raw, params, repaired)
        findings += more
        declared = getattr(part.features.get(params.label), "names", None)
        label_names = tuple(declared) if declared else label_names
    return tables, findings, label_names


def withheld(rows: pd.DataFrame) -> bool:
    """Says whether all labels are kept secret."""
    return bool(rows["label"].isin([UNLABELLED, str(UNLABELLED)]).all())


def _folder(params: SourceParams) -> Path | None:
    folder = Path(params.data or "").expanduser()
    return folder if folder.is_dir() else None


def hub_name(params: SourceParams) -> str:
    """Returns id, configuration and revision of a hub data set."""
    config = f"/{params.config_name}" if params.config_name else ""
    return f"{params.data}{config}@{params.revision or 'main'}"


def local_files(folder: Path) -> dict[str, Path]:
    """Returns name -> file of a local copy, hidden ones left out.

    Raises:
        InputError: a link leads out of the folder.
    """
    found = [path for kind in ("parquet", "arrow", "json") for path in folder.rglob(f"*.{kind}")]
    return {
        path.relative_to(folder).as_posix(): files.inside(path, folder)
        for path in sorted(found)
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def _from_parquet(
    folder: Path, paths: dict[str, Path], params: SourceParams, repaired: bool
) -> tuple[dict[str, pd.DataFrame], list[Finding]]:
    """Returns the rows of the parquet files by split."""
    parts: dict[str, list[pd.DataFrame]] = {}
    findings = []
    for name, path in paths.items():
        if split := split_of_file(name, params):
            part, more = table.read_parquet(path, params, skip_blank=repaired)
            parts.setdefault(split, []).append(part)
            findings += more
    if not parts:
        raise InputError(
            f"source.data {folder}: no data set in this folder; expected what save_to_disk writes, "
            "or parquet files named after their split, such as train.parquet"
        )
    return {split: pd.concat(part, ignore_index=True) for split, part in parts.items()}, findings


def split_of_file(name: str, params: SourceParams) -> str | None:
    """Returns the split of a parquet file: of ``data/train-00000-of-00002.parquet`` that is train.

    None of a file that is no parquet, names no split, or is of another configuration.
    """
    if not name.endswith(".parquet") or params.config_name not in (None, *name.split("/")):
        return None
    words = re.split(r"[/._-]", name.casefold())
    return next((columns.SPLIT_NAMES[word] for word in words if word in columns.SPLIT_NAMES), None)


def from_disk(folder: Path) -> dict[str, Dataset]:
    """Returns the splits of what ``save_to_disk`` wrote; a set without splits is train.

    Raises:
        InputError: it cannot be read.
    """
    datasets = _library()
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever a damaged folder makes the library raise
        raise InputError(
            f"source.data {folder}: is not a readable saved data set ({error})"
        ) from error
    return loaded if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}


def from_hub(params: SourceParams) -> dict[str, Dataset]:
    """Returns the splits of a hub data set.

    Raises:
        InputError: there is none of this id, the hub cannot be reached, or it cannot be loaded.
    """
    datasets = _library()
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    data = str(params.data)
    try:
        if not huggingface_hub.constants.HF_HUB_OFFLINE:  # offline, the local cache may serve
            huggingface_hub.HfApi().dataset_info(data, revision=params.revision, timeout=_TIMEOUT)
    except RepositoryNotFoundError as error:
        raise InputError(
            f"source.data {data!r}: no such folder here and no such data set on the hub"
        ) from error
    except Exception as error:
        raise InputError(
            f"source.data {data!r}: no such folder here, and the hub cannot be reached "
            f"({type(error).__name__}); give a folder with a copy of the data set"
        ) from error
    try:
        return datasets.load_dataset(data, params.config_name, revision=params.revision)
    except Exception as error:
        raise InputError(f"source.data {data!r}: cannot be loaded ({error})") from error


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "source.dataset huggingface needs the package datasets: pip install datasets"
        ) from error
    return datasets
