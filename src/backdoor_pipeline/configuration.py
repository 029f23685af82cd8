"""How this project reads its configuration: parameters checked first, outputs named by their keys.

The catalog may use ``${key:STAGE}`` for the output folder of a stage, ``${group:NAME}`` for a
parameter group or value, ``${groups:NAME,NAME}`` for several by name, and entries with
``{detector}`` or ``{recipe}`` in their name. Those stand for one entry for each detector or recipe,
with ``{key}`` as its folder and ``{keys}`` as the folders of everything that the defended run
computes, and ``{provenance}`` as its parameters; ``{unlearner}`` stands for each unlearner of the
recipe, ``{earlier_unlearner}`` for each but the last.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from omegaconf import DictConfig, OmegaConf

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.keys import stage_keys
from backdoor_pipeline.parameters import Parameters, check, did_you_mean, spell_out
from backdoor_pipeline.recipes import DETECTORS, RECIPES

VICTIM = ("seed", "source", "ingest", "poison", "model", "compute", "training")
"""The parameters that a victim depends on."""


class ProjectConfigLoader(OmegaConfigLoader):
    """Kedro's loader with shorthands, typed parameters and keyed output folders."""

    def __init__(self, conf_source: str, **kwargs: Any) -> None:
        kwargs["runtime_params"] = spell_out(kwargs.get("runtime_params") or {})
        super().__init__(conf_source, **kwargs)
        known = {path.name for path in Path(conf_source).glob("*/")}
        if self.env and self.env not in known:
            where = f"there is no environment '{self.env}' in {conf_source}"
            raise InputError(f"{where}{did_you_mean(self.env, known)}")

    def __getitem__(self, key: str) -> Any:
        if key in {"parameters", "catalog"}:
            parameters = self.typed_parameters  # errors in them come first, and plainly
            if key == "parameters":
                return dict(parameters)
        # resolvers belong to the process, and Kedro would keep those of an earlier session
        OmegaConf.register_new_resolver("key", self._key, replace=True)
        OmegaConf.register_new_resolver("group", self._group, replace=True)
        OmegaConf.register_new_resolver("groups", self._groups, replace=True)
        config = super().__getitem__(key)
        return self._expand(config) if key == "catalog" else config

    @cached_property
    def typed_parameters(self) -> Parameters:
        """All parameters, checked.

        Raises:
            InputError: A parameter is unknown or out of range.
        """
        return check(super().__getitem__("parameters"))

    @cached_property
    def keys_of_stages(self) -> dict[str, str]:
        """The output folder of every stage, detector and recipe."""
        return stage_keys(self.typed_parameters)

    def _key(self, stage: str) -> str:
        return self.keys_of_stages[stage]

    def _keys_behind(self, recipe: str) -> list[str]:
        detectors = RECIPES[recipe].detectors if recipe in RECIPES else ()
        stages = ("ingest", "poison", "victim", *detectors, recipe)
        return [self._key(stage) for stage in stages]

    def _provenance(self, recipe: str) -> dict[str, Any]:
        if recipe not in RECIPES:
            return {}
        methods = [*RECIPES[recipe].detectors, "confirmation", *RECIPES[recipe].unlearners]
        if len(RECIPES[recipe].detectors) == 1:
            methods.remove("confirmation")
        values = self.typed_parameters.model_dump(mode="json")
        return {"recipe": recipe, **{name: values[name] for name in [*VICTIM, *methods]}}

    def _group(self, name: str) -> DictConfig | str:
        value = self.typed_parameters.model_dump(mode="json")[name]
        return OmegaConf.create(value) if isinstance(value, dict) else str(value)

    def _groups(self, *names: str) -> DictConfig:
        values = self.typed_parameters.model_dump(mode="json", include=set(names))
        return OmegaConf.create({name: values[name] for name in names})

    def _expand(self, catalog: dict[str, Any]) -> dict[str, Any]:
        methods = {"{detector}": DETECTORS, "{recipe}": list(RECIPES)}
        expanded: dict[str, Any] = {}
        for name, entry in catalog.items():
            kind = next((kind for kind in methods if kind in name), None)
            if kind is None:
                expanded[name] = entry
                continue
            for method in methods[kind]:
                text = json.dumps(entry).replace("{key}", json.dumps(self._key(method))[1:-1])
                text = text.replace('"{keys}"', json.dumps(self._keys_behind(method)))
                text = text.replace('"{provenance}"', json.dumps(self._provenance(method)))
                for own, filled in _steps(name.replace(kind, method), text, method):
                    expanded[own] = json.loads(filled)
        return expanded


def _steps(name: str, text: str, method: str) -> list[tuple[str, str]]:
    """``name`` and ``text`` for each unlearner that a placeholder in ``name`` stands for."""
    unlearners = RECIPES[method].unlearners if method in RECIPES else ()
    for placeholder, chosen in (
        ("{unlearner}", unlearners),
        ("{earlier_unlearner}", unlearners[:-1]),
    ):
        if placeholder in name:
            return [
                (name.replace(placeholder, step), text.replace(placeholder, step))
                for step in chosen
            ]
    return [(name, text)]
