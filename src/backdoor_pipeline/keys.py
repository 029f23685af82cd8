"""The names of the output folders: readable, and different wherever anything that matters differs.

Each stage's key ends in a short hash of the parameters of that stage, the keys of what it builds
on, and the package version; where data or a model are read, also of their digest. So different
settings never share a folder, and an output that exists under its key is still valid.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backdoor_pipeline import __version__
from backdoor_pipeline.datasets import sources
from backdoor_pipeline.datasets.sources import SourceParams, files
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.folders import model_digest, short_name
from backdoor_pipeline.parameter_group import ParameterGroup
from backdoor_pipeline.parameters import Parameters
from backdoor_pipeline.recipes import ALL, DETECTORS, Recipe

HASH_LENGTH = 8


class Stage(NamedTuple):
    """What the outputs of a stage depend on.

    Attributes:
        builds_on: The stages whose outputs it reads.
        reads: The parameters it reads besides.
        folder: How its output folder is called, before the hash.
    """

    builds_on: tuple[str, ...]
    reads: tuple[str, ...]
    folder: str


def purified(recipe: str) -> str:
    """The stage of a recipe's defence, whose outcome is its purified model."""
    return f"{recipe}.purified"


def discovery(recipe: str) -> str:
    """The stage that follows how a recipe heals as more and more of the poison is discovered."""
    return f"{recipe}.discovery"


def _besides(recipe: Recipe) -> tuple[str, ...]:
    """The groups that a recipe's defence reads besides those of its methods and the usual ones."""
    of_pairs = recipe.modality == "pair" and bool(recipe.training)
    asked = {"clean_source": bool(recipe.drawn), "training": of_pairs}
    return tuple(name for name, needed in asked.items() if needed)


POISONED = "{data}.{attack}-{rate}"
CELL = f"{POISONED}.{{model}}.s{{seed}}"
SETTINGS = ("seed", "model", "compute")
STAGES = {
    "ingest": Stage((), ("seed", "source", "ingest"), "{data}"),
    "poison": Stage(("ingest",), ("poison", *SETTINGS), f"{POISONED}.s{{seed}}"),
    "reference": Stage(("ingest",), ("training", *SETTINGS), "{data}.clean.{model}.s{seed}"),
    "victim": Stage(("poison",), ("training", *SETTINGS), CELL),
    "observed": Stage(("poison",), ("training", "observation", *SETTINGS), f"{CELL}.observed"),
    "fourier": Stage(("observed",), ("fourier",), f"{CELL}.fourier"),
    "evidence": Stage(
        ("ingest",),
        ("evidence", "clean_source", *SETTINGS),
        "{data}.evidence.{model}.s{seed}",
    ),
    "audit": Stage(("evidence",), ("audit", "training", *SETTINGS), "{data}.audit.{model}.s{seed}"),
    "floor": Stage(("poison", "reference"), (), f"{CELL}.floor"),
    "trusted": Stage(("ingest",), ("trusted_encoder", *SETTINGS), "{data}.trusted.{model}.s{seed}"),
    **{name: Stage(read, (name, *SETTINGS), f"{CELL}.{name}") for name, read in DETECTORS.items()},
}
for name, recipe in ALL.items():
    start = ("poison",) if recipe.training else ("victim",)
    STAGES[purified(name)] = Stage(
        (*start, *recipe.detectors[-1:]),
        (*recipe.methods, *_besides(recipe), *SETTINGS),
        f"{CELL}.{purified(name)}",
    )
    if recipe.curve:
        STAGES[discovery(name)] = Stage(
            ("victim",), ("discovery", *recipe.unlearners, *SETTINGS), f"{CELL}.{discovery(name)}"
        )
    STAGES[name] = Stage(
        (purified(name), "victim", "floor"), ("evaluation", "report"), f"{CELL}.{name}"
    )
"""All stages, detectors and recipes, each after what it builds on.

A recipe has two: what it makes of the victim, which is all that a defender needs, and what an
experiment measures and reports.
"""


def behind(stage: str) -> list[str]:
    """``stage`` and all that it builds on, the first one first."""
    needed = {stage}
    for name in reversed(STAGES):
        if name in needed:
            needed |= set(STAGES[name].builds_on)
    return [name for name in STAGES if name in needed]


def stage_keys(parameters: Parameters, digests: Digests | None = None) -> dict[str, str]:
    """The folder name of every stage, detector and recipe, by its name.

    Args:
        parameters: All of them.
        digests: Those of data and models read before, for many calls; None: read them.
    """
    p, digests = parameters, digests or Digests()
    words = {
        "data": p.source.dataset
        if p.source.data is None
        else short_name(p.source.data).replace(".", "_"),
        "attack": p.poison.attack,
        "rate": np.format_float_positional(p.poison.rate, min_digits=2),
        "model": short_name(p.model.name),
        "seed": p.seed,
    }
    contents = {"source": digests.data(p.source), "model": digests.model(p.model)}
    if second := sources.second_source(p.clean_source):
        contents["clean_source"] = digests.data(second)
    if (trusted := p.trusted_encoder.name) is not None:
        of_named = {"name": trusted, "revision": p.trusted_encoder.revision}
        named = p.model.model_copy(update=of_named)
        contents["trusted_encoder"] = digests.model(named)
    if (classifier := p.audit.classifier) is not None:
        contents["audit"] = digests.model(p.model.model_copy(update={"name": classifier}))
    if (encoded := getattr(p.poison.settings, "encoded", None)) is not None:
        contents["poison"] = digests.file(encoded)
    if (surrogate := getattr(p.poison.settings, "surrogate", None)) is not None:
        of_named = {"name": surrogate, "revision": p.poison.settings.revision}
        contents["poison"] = digests.model(p.model.model_copy(update=of_named))
    keys: dict[str, str] = {}
    for name, stage in STAGES.items():
        parts: list[Any] = [__version__, [keys[other] for other in stage.builds_on]]
        parts += [[group, _plain(p, group), contents.get(group)] for group in stage.reads]
        text = json.dumps(parts, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]
        keys[name] = f"{stage.folder.format(**words)}-{digest}"
    return keys


def _plain(parameters: Parameters, name: str) -> Any:
    """The values of a parameter or a group, but for the places of data (their digest counts)."""
    value = getattr(parameters, name)
    plain = value.in_force() if isinstance(value, ParameterGroup) else value
    if name in {"source", "clean_source"}:
        return {key: setting for key, setting in plain.items() if key not in {"folder", "data"}}
    if name == "poison" and "ssba" in plain:
        return plain | {"ssba": None}  # nothing but the place of its images
    return plain


class Digests:
    """What identifies data and models, each read once."""

    def __init__(self) -> None:
        self.data = cache(data_digest)
        self.model = cache(model_digest)
        self.file = cache(file_digest)


def data_digest(source: SourceParams) -> str:
    """What identifies the raw data.

    ``unreadable`` where the ingest stage will complain: looking at the project still works.
    """
    try:
        return sources.digest(source)
    except (InputError, OSError):
        return "unreadable"


def file_digest(place: str) -> str:
    """What identifies a file that is read as it is; ``missing`` if there is none."""
    path = Path(place).expanduser()
    return files.sha256(path) if path.is_file() else files.MISSING
