"""The output folders of a grid: whether they are there, and how to remove them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from backdoor_pipeline.keys import discovery, purified
from backdoor_pipeline.recipes import ALL, DETECTORS

MODELS = "06_models"
LAYERS = ("03_primary", "05_model_input", MODELS, "07_model_output", "08_reporting", ".costs")
LAYER = {
    "ingest": "03_primary",
    "poison": "05_model_input",
    "reference": MODELS,
    "victim": MODELS,
    "trusted": MODELS,
    **dict.fromkeys(("floor", "observed", "fourier", "evidence"), "07_model_output"),
    "audit": "08_reporting",
    **dict.fromkeys(DETECTORS, "07_model_output"),
    **dict.fromkeys(map(purified, ALL), MODELS),
    **{discovery(name): "07_model_output" for name, recipe in ALL.items() if recipe.curve},
    **dict.fromkeys(ALL, "08_reporting"),
}
"""Stage -> where its outputs are that later stages read."""


def are_there(keys: Mapping[str, str], data_dir: Path) -> bool:
    """Whether the outputs of these stages (by their keys) exist."""
    return all((data_dir / LAYER[stage] / key).is_dir() for stage, key in keys.items())


def outputs_of(
    keys: Iterable[str], data_dir: Path, spared: Iterable[str] = (), models_only: bool = False
) -> list[Path]:
    """The folders that exist under ``keys``, but for the ``spared`` ones.

    Args:
        keys: Names of output folders.
        data_dir: Where outputs are written.
        spared: Keys that somebody else still needs.
        models_only: Whether to list trained models alone.
    """
    layers = (MODELS,) if models_only else LAYERS
    wanted = sorted(set(keys) - set(spared))
    folders = (data_dir / layer / key for layer in layers for key in wanted)
    return [folder for folder in folders if folder.is_dir()]


def keys_of_other_grids(grids: Path, own: str) -> set[str]:
    """The keys that the records and the jobs of all grids but ``own`` name.

    Args:
        grids: Folder that holds a folder for each grid.
        own: Name of the grid to leave out.
    """
    others = [path for path in grids.glob("[!.]*/") if path.name != own]
    records = (path for other in others for path in other.glob("records/*.json"))
    jobs = (path for other in others for path in other.glob("jobs/*.json"))
    found = [json.loads(path.read_text(encoding="utf-8")) for path in records]
    found += [json.loads(path.read_text(encoding="utf-8"))["about"] for path in jobs]
    return {key for about in found for key in about["keys"].values()}


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remove(folders: Iterable[Path], locks: Path) -> list[Path]:
    """Remove these folders with all that they hold; each goes out of sight before it goes.

    Args:
        folders: What to remove.
        locks: Folder of the locks that runs hold on what they write.

    Returns:
        Those that stay, because a run is writing there.
    """
    staying = []
    for folder in folders:
        try:
            with FileLock(locks / f"{folder.name}.lock", timeout=0):
                hidden = folder.with_name(f".{folder.name}.removed")
                shutil.rmtree(hidden, ignore_errors=True)  # of a removal that was killed
                folder.rename(hidden)
                shutil.rmtree(hidden)
        except Timeout:
            staying.append(folder)
    return staying
