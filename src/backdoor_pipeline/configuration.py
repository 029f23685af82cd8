"""How this project reads its configuration: parameters checked first, outputs named by their keys.

The catalog may use ``${key:STAGE}`` for the output folder of a stage, ``${group:NAME}`` for a
parameter group or value, ``${provenance:STAGE}`` for all parameters that made a stage's outputs,
and entries with ``{detector}`` or ``{recipe}`` in their name. Those stand for one entry for each
detector or recipe, with ``{key}`` as its folder. For a recipe ``{purified_key}`` is the folder of
what its defence makes, ``{curve_key}`` that of its ``{curve}``, ``{provenance}`` the parameters
behind its model and ``{keys}`` the folders of all that the defended run computes; ``{unlearner}``
stands for each of its unlearners, ``{earlier_unlearner}`` for each but the last, ``{planned}`` for
each that is planned, ``{figure}`` for each of its figures.

What other data than texts need stands in a file of its own, ``conf/<env>/image.yml`` or
``pair.yml``: where the parameter ``modality`` is that, its values come after those of
``parameters*.yml``, in whatever environment, and before those of the command line.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf

from backdoor_pipeline.errors import InputError, did_you_mean
from backdoor_pipeline.keys import STAGES, behind, discovery, purified, stage_keys
from backdoor_pipeline.parameters import Parameters, check, merge, spell_out
from backdoor_pipeline.recipes import ALL, DETECTORS, RECIPES, Recipe

MODALITY_FILES = ("image", "pair")
"""Modalities with files of their own, and how these begin."""


class ProjectConfigLoader(OmegaConfigLoader):
    """Kedro's loader with shorthands, typed parameters and keyed output folders."""

    def __init__(self, conf_source: str, **kwargs: Any) -> None:
        kwargs["runtime_params"] = spell_out(kwargs.get("runtime_params") or {})
        super().__init__(conf_source, **kwargs)
        self.recipes = set(RECIPES)  # those that the catalog has data sets for
        root = Path(conf_source)
        folders = {*root.glob("*/"), *(path.parent for path in root.glob("*/*/parameters*"))}
        known = {path.relative_to(root).as_posix() for path in folders}
        if self.env and self.env not in known:
            where = f"there is no environment '{self.env}' in {conf_source}"
            raise InputError(f"{where}{did_you_mean(self.env, known)}")

    def __getitem__(self, key: str) -> Any:
        if key in {"parameters", "catalog"}:
            parameters = self.typed_parameters  # errors in them come first, and plainly
            if key == "parameters":
                return dict(parameters)
            return copy.deepcopy(self._catalog)  # a run asks for it several times
        return super().__getitem__(key)

    @cached_property
    def typed_parameters(self) -> Parameters:
        """All parameters, checked.

        Raises:
            InputError: A parameter is unknown or out of range.
        """
        return check(self._raw_parameters)

    def parameters_with(self, settings: Mapping[str, Any]) -> Parameters:
        """The parameters with further settings, shorthands and ``group.name`` allowed.

        Raises:
            InputError: A parameter is unknown or out of range.
        """
        spelt_out = spell_out(settings)
        changed = self._read_parameters(spelt_out.get("modality"))
        merge(changed, spelt_out)
        return check(changed)

    @cached_property
    def _raw_parameters(self) -> dict[str, Any]:
        return self._read_parameters()

    def _read_parameters(self, modality: str | None = None) -> dict[str, Any]:
        raw: dict[str, Any] = copy.deepcopy(super().__getitem__("parameters"))
        modality = modality or raw["modality"]
        if modality in MODALITY_FILES:
            merge(raw, super().__getitem__(modality))
            merge(raw, self.runtime_params)
        return raw

    @cached_property
    def _catalog(self) -> dict[str, Any]:
        # resolvers belong to the process, and Kedro would keep those of an earlier session
        OmegaConf.register_new_resolver("key", self._key, replace=True)
        OmegaConf.register_new_resolver("group", self._group, replace=True)
        OmegaConf.register_new_resolver("provenance", self._provenance, replace=True)
        return self._expand(super().__getitem__("catalog"))

    @cached_property
    def _plain_parameters(self) -> dict[str, Any]:
        return self.typed_parameters.model_dump(mode="json")

    @cached_property
    def keys_of_stages(self) -> dict[str, str]:
        """The output folder of every stage, detector and recipe."""
        return stage_keys(self.typed_parameters)

    def _key(self, stage: str) -> str:
        return self.keys_of_stages[stage]

    def _provenance(self, stage: str) -> dict[str, Any]:
        groups = {group for name in behind(stage) for group in STAGES[name].reads}
        return {name: value for name, value in self._plain_parameters.items() if name in groups}

    def _group(self, name: str) -> dict[str, Any] | str:
        value = self._plain_parameters[name]
        return value if isinstance(value, dict) else str(value)

    def _expand(self, catalog: dict[str, Any]) -> dict[str, Any]:
        expanded: dict[str, Any] = {}
        known: dict[tuple[str | None, ...], dict[str, str]] = {}  # many entries share them
        recipes = {name: recipe for name, recipe in ALL.items() if name in self.recipes}
        for name, entry in catalog.items():
            for chosen in _placeholders(name, recipes):
                own, text = name, json.dumps(entry)
                for placeholder, method in chosen.items():
                    own, text = own.replace(placeholder, method), text.replace(placeholder, method)
                subject = (chosen.get("{recipe}"), chosen.get("{detector}"))
                if subject not in known:
                    known[subject] = self._values(chosen)
                for placeholder, value in known[subject].items():
                    text = text.replace(placeholder, value)
                expanded[own] = json.loads(text)
        return expanded

    def _values(self, chosen: dict[str, str]) -> dict[str, str]:
        """What stands in an entry for the detector or recipe that was ``chosen``, as JSON."""
        if "{detector}" in chosen:
            return {"{key}": json.dumps(self._key(chosen["{detector}"]))[1:-1]}
        if "{recipe}" not in chosen:
            return {}
        recipe = chosen["{recipe}"]
        defence = [self._key(stage) for stage in (*behind(purified(recipe)), recipe)]
        provenance = self._provenance(purified(recipe))
        folders = {"{key}": recipe, "{purified_key}": purified(recipe)}
        if ALL[recipe].curve:
            folders["{curve_key}"] = discovery(recipe)
        return {
            **{name: json.dumps(self._key(stage))[1:-1] for name, stage in folders.items()},
            '"{keys}"': json.dumps(defence),
            '"{provenance}"': json.dumps({"recipe": recipe, **provenance}),
        }


PARTS: dict[str, Callable[[Recipe], tuple[str, ...]]] = {
    "{unlearner}": lambda recipe: recipe.unlearners,
    "{earlier_unlearner}": lambda recipe: recipe.unlearners[:-1],
    "{planned}": lambda recipe: recipe.planned,
    "{figure}": lambda recipe: recipe.figures,
    "{trainer}": lambda recipe: ("defended_training",) if recipe.training else (),
    "{text_trainer}": lambda recipe: (
        ("defended_training",) if recipe.training and recipe.modality == "text" else ()
    ),
    "{drawn}": lambda recipe: recipe.drawn,
    "{curve}": lambda recipe: recipe.curve,
    "{retrieved}": lambda recipe: ("retrieved",) if recipe.modality == "pair" else (),
    "{trained}": lambda recipe: ("purified",) if recipe.training else (),
}
"""Placeholder -> what it stands for, of each recipe."""


def _placeholders(name: str, recipes: Mapping[str, Recipe]) -> list[dict[str, str]]:
    """What the placeholders in a catalog entry's name stand for: one mapping for each entry."""
    if "{detector}" in name:
        return [{"{detector}": detector} for detector in DETECTORS]
    if "{recipe}" not in name:
        return [{}]
    for placeholder, parts in PARTS.items():
        if placeholder in name:
            return [
                {"{recipe}": recipe, placeholder: part}
                for recipe, made_of in recipes.items()
                for part in parts(made_of)
            ]
    return [{"{recipe}": recipe} for recipe in recipes]
