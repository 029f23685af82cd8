"""The names of the output folders: readable, and different wherever anything that matters differs.

Each stage's key ends in a short hash of the parameters of that stage, the key of what it builds on,
and the package version; the first one also of the raw data's digest. So different settings never
share a folder, and an output that exists under its key is still valid.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from backdoor_pipeline import __version__
from backdoor_pipeline.datasets import sources
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.loading import model_digest, short_name
from backdoor_pipeline.parameters import Parameters
from backdoor_pipeline.recipes import DETECTORS, RECIPES

HASH_LENGTH = 8


def stage_keys(parameters: Parameters) -> dict[str, str]:
    """The folder name of every stage, detector and recipe, by its name."""
    p = parameters
    data = _source_name(p)
    model = short_name(p.model.name)
    cell = f"{data}.{p.poison.attack}-{p.poison.rate:.2f}"
    attack = p.poison.model_dump(include={"attack", "rate", "label_mode", "target_label"})
    settings = [p.seed, p.compute, p.model, model_digest(p.model)]
    keys: dict[str, str] = {}
    keys["ingest"] = _key(data, p.seed, p.source, p.ingest, data_digest(p))
    keys["poison"] = _key(f"{cell}.s{p.seed}", keys["ingest"], attack, p.poison.settings, *settings)
    keys["reference"] = _key(
        f"{data}.clean.{model}.s{p.seed}", keys["ingest"], p.training, *settings
    )
    keys["victim"] = _key(f"{cell}.{model}.s{p.seed}", keys["poison"], p.training, *settings)
    keys["floor"] = _key(f"{cell}.{model}.s{p.seed}.floor", keys["poison"], keys["reference"])
    for detector in DETECTORS:
        keys[detector] = _key(
            f"{cell}.{model}.s{p.seed}.{detector}", keys["victim"], getattr(p, detector)
        )
    for name, recipe in RECIPES.items():
        keys[name] = _key(
            f"{cell}.{model}.s{p.seed}.{name}",
            *(keys[detector] for detector in recipe.detectors),
            keys["reference"],
            *(getattr(p, unlearner) for unlearner in recipe.unlearners),
            p.confirmation,
            p.evaluation,
            p.report,
        )
    return keys


def _key(name: str, *parts: Any) -> str:
    plain = [
        part.model_dump(mode="json") if hasattr(part, "model_dump") else part for part in parts
    ]
    text = json.dumps([__version__, plain], sort_keys=True, default=str)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]}"


def _source_name(p: Parameters) -> str:
    if p.source.data is None:
        return p.source.dataset
    return short_name(p.source.data).replace(".", "_")


def data_digest(parameters: Parameters) -> str:
    """What identifies the raw data.

    ``unreadable`` where the ingest stage will complain: looking at the project still works.
    """
    try:
        return sources.digest(parameters.source)
    except (InputError, OSError):
        return "unreadable"
