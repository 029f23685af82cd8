"""A grid file: data sets × attacks × models × seeds × recipes, typed, unknown names rejected.

datasets: [sst2, {name: own, dataset: table, parameters: {data: reviews.parquet}}]
attacks:
  - badnets
  - {name: four words, attack: badnets, parameters: {trigger: cf mn bb tq}, rates: [0.05, 0.1]}
recipes: [btu, {name: btu without cut, recipe: btu, parameters: {token_replacement.cut_scale: 0}}]
models: [minilm]
seeds: [0, 1, 2]

``parameters`` hold what ``--params`` may hold: shorthands, ``group.name``, nested groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import yaml
from pydantic import Field, ValidationError, model_validator

from backdoor_pipeline.errors import InputError, did_you_mean
from backdoor_pipeline.parameter_group import ParameterGroup
from backdoor_pipeline.parameters import merge, spell_out

COORDINATES = ("dataset", "attack", "poison_rate", "label_mode", "model", "seed", "recipe")
"""What tells the cells of a grid apart."""


class Entry(ParameterGroup):
    """One value of one axis: what the tables call it, and the settings that make it.

    A plain word is short for an entry of that name.
    """

    axis: ClassVar[str]
    name: Annotated[str, Field(min_length=1)]
    parameters: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            given = {"name": str(given)}
        name = given.get("name", given.get(cls.axis))
        return {"name": name, cls.axis: name, **given} if name is not None else given

    def settings(self) -> dict[str, Any]:
        """Its parameters, its own one among them."""
        return {self.axis: getattr(self, self.axis), **self.parameters}


class DatasetEntry(Entry):
    """A data set; ``dataset`` is its name unless given."""

    axis = "dataset"
    dataset: str


class AttackEntry(Entry):
    """An attack, once for each rate and label mode (if none is given, the configuration's)."""

    axis = "attack"
    attack: str
    rates: Annotated[list[float], Field(min_length=1)] | None = None
    label_modes: Annotated[list[str], Field(min_length=1)] | None = None

    def variants(self) -> Iterator[dict[str, Any]]:
        """Its settings, for each rate and label mode."""
        rates = [{"poison_rate": rate} for rate in self.rates or []] or [{}]
        modes = [{"label_mode": mode} for mode in self.label_modes or []] or [{}]
        for rate, mode in product(rates, modes):
            yield {**self.settings(), **rate, **mode}


class ModelEntry(Entry):
    """A model; ``model`` is its hub id, folder or packaged name, the entry's name unless given."""

    axis = "model"
    model: str


class RecipeEntry(Entry):
    """A method of the table; ``recipe`` is the pipeline that runs it, its name unless given."""

    axis = "recipe"
    recipe: str

    def settings(self) -> dict[str, Any]:
        """Its parameters; which pipeline runs is no parameter."""
        return dict(self.parameters)


class Grid(ParameterGroup):
    """What stands in a grid file.

    Attributes:
        env: The Kedro environment of all cells; None: the one of `kedro run` without --env.
        parameters: Settings of all cells; those of an entry come after them.
        exclude: Cells to leave out, as coordinates that must all fit (a value or a list of values).
    """

    env: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    datasets: Annotated[list[DatasetEntry], Field(min_length=1)]
    attacks: Annotated[list[AttackEntry], Field(min_length=1)]
    recipes: Annotated[list[RecipeEntry], Field(min_length=1)]
    models: Annotated[list[ModelEntry], Field(min_length=1)]
    seeds: Annotated[list[int], Field(min_length=1)]
    exclude: list[dict[str, Any]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _no_name_twice(self) -> Grid:
        for axis in ("datasets", "attacks", "recipes", "models"):
            names = [entry.name for entry in getattr(self, axis)]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{axis}: '{twice[0]}' stands there twice; give each its own name")
        for coordinates in self.exclude:
            for name in coordinates.keys() - set(COORDINATES):
                raise ValueError(f"exclude: no '{name}'{did_you_mean(name, set(COORDINATES))}")
        return self

    def combinations(self) -> Iterator[Combination]:
        """All cells, excluded ones too.

        Cells that share a data set, model and seed follow each other, so that a serial run trains
        what they share and goes on.
        """
        for dataset, model, seed, attack in product(
            self.datasets, self.models, self.seeds, self.attacks
        ):
            for variant, recipe in product(attack.variants(), self.recipes):
                own = (self.parameters, model.settings(), dataset.settings(), variant)
                settings: dict[str, Any] = {}
                for some in (*own, recipe.settings(), {"seed": seed}):
                    merge(settings, spell_out(some))
                yield Combination(dataset, attack, model, seed, recipe, settings)


class Combination(NamedTuple):
    """One entry of each axis, and the settings they make together."""

    dataset: DatasetEntry
    attack: AttackEntry
    model: ModelEntry
    seed: int
    recipe: RecipeEntry
    settings: dict[str, Any]

    def __str__(self) -> str:
        names = (self.dataset.name, self.attack.name, self.model.name, self.seed, self.recipe.name)
        return ", ".join(map(str, names))


def read_grid(path: Path) -> Grid:
    """The grid in a YAML file.

    Raises:
        InputError: There is no such file, or something in it is unknown or of the wrong type.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the grid file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {error}") from None
    try:
        return Grid.model_validate(raw or {})
    except ValidationError as error:
        raise InputError("\n".join(f"{path}: {_explain(e)}" for e in error.errors())) from None


def _explain(error: Mapping[str, Any]) -> str:
    place = [str(part) for part in error["loc"]]
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        group = Grid if len(place) == 1 else ENTRIES.get(place[0], Grid)
        return f"there is no '{'.'.join(place)}'{did_you_mean(place[-1], set(group.model_fields))}"
    if error["type"] == "missing":
        return f"'{'.'.join(place)}' is not set"
    return f"{'.'.join(place)} is {error['input']!r}, but {message}" if place else message


ENTRIES: dict[str, type[ParameterGroup]] = {
    "datasets": DatasetEntry,
    "attacks": AttackEntry,
    "models": ModelEntry,
    "recipes": RecipeEntry,
}
