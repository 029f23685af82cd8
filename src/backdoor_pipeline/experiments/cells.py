"""The cells of a grid, checked before anything runs, and what they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backdoor_pipeline.errors import InputError, did_you_mean
from backdoor_pipeline.experiments.grid import COORDINATES, Combination, Grid
from backdoor_pipeline.keys import Digests, behind, stage_keys
from backdoor_pipeline.modelling.folders import short_name
from backdoor_pipeline.parameters import merge, spell_out
from backdoor_pipeline.recipes import ALL, RECIPES, crossed

if TYPE_CHECKING:
    from backdoor_pipeline.configuration import ProjectConfigLoader
    from backdoor_pipeline.parameters import Parameters

NOT_THERE = {"missing", "unreadable"}  # digests of data that cannot be read


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        coordinates: Its place in the tables, see ``grid.COORDINATES``.
        pipeline: The recipe that runs.
        settings: Its parameters, as a run takes them at run time.
        target_label: What its attack is to call up.
        keys: Folder of each stage that the recipe passes through, the recipe's own last.
    """

    coordinates: dict[str, Any]
    pipeline: str
    settings: dict[str, Any]
    target_label: int
    keys: dict[str, str]

    @property
    def id(self) -> str:
        """The folder of its results, which tells it from all others: readable, with a hash."""
        return self.keys[self.pipeline]

    def __str__(self) -> str:
        return ", ".join(str(value) for value in self.coordinates.values())


def cells_of(
    grid: Grid, loader: ProjectConfigLoader, settings: Mapping[str, Any], where: str
) -> list[Cell]:
    """The cells of a grid without the excluded ones, each with its parameters checked.

    Args:
        grid: What the grid file says.
        loader: The project's configuration in the environment of the grid.
        settings: Further settings of all cells, which come last.
        where: Name of the grid file, for errors.

    Raises:
        InputError: A parameter of a cell is wrong, its data are not there, two cells are the same
            run, or an exclusion fits no cell.
    """
    digests, unused = Digests(), list(grid.exclude)
    cells: dict[str, Cell] = {}
    for chosen in grid.combinations():
        recipe, own = chosen.recipe.recipe, chosen.settings
        merge(own, spell_out(settings))
        try:
            if recipe not in ALL:
                unknown = f"there is no recipe '{recipe}'"
                raise InputError(f"{unknown}{did_you_mean(recipe, set(RECIPES))}")
            own.setdefault("modality", ALL[recipe].modality)
            parameters = loader.parameters_with(own)
            recipe = crossed(recipe, parameters.detector, parameters.unlearner)
            if parameters.fresh:
                raise InputError("fresh=true is for single runs; see `kedro benchmark clean`")
            if digests.data(parameters.source) in NOT_THERE:
                raise InputError(
                    f"the data set '{parameters.source.data or parameters.source.dataset}' is not "
                    f"there (source.folder is '{parameters.source.folder}', from BACKDOOR_DATA "
                    "unless given); correct that, or leave the data set out"
                )
            keys = stage_keys(parameters, digests)
        except InputError as error:
            raise InputError(f"{where}, cell {chosen}: {error}") from None
        coordinates = _coordinates(chosen, parameters)
        fitting = [exclusion for exclusion in grid.exclude if _fits(exclusion, coordinates)]
        unused = [exclusion for exclusion in unused if exclusion not in fitting]
        if fitting:
            continue
        stages = {stage: keys[stage] for stage in behind(recipe)}
        cell = Cell(coordinates, recipe, own, parameters.poison.target_label, stages)
        if cell.id in cells:
            raise InputError(f"{where}: these cells are the same run:\n{cells[cell.id]}\n{cell}")
        cells[cell.id] = cell
    if unused:
        raise InputError(f"{where}: the exclusion {unused[0]} fits no cell; correct or remove it")
    if not cells:
        raise InputError(f"{where}: all cells are excluded")
    return list(cells.values())


def _coordinates(chosen: Combination, parameters: Parameters) -> dict[str, Any]:
    """What the cell is called: by its entries, unless other settings have replaced them."""
    source, poison, model = parameters.source, parameters.poison, parameters.model
    found = {
        "poison_rate": poison.rate,
        "label_mode": poison.label_mode,
        "seed": parameters.seed,
        "recipe": chosen.recipe.name,
    }
    for axis, entry, said, meant in (
        ("dataset", chosen.dataset, chosen.dataset.dataset, source.dataset),
        ("attack", chosen.attack, chosen.attack.attack, poison.attack),
        ("model", chosen.model, chosen.model.model, model.name),
    ):
        found[axis] = entry.name if said == meant else short_name(meant)
    return {name: found[name] for name in COORDINATES}


def _fits(exclusion: Mapping[str, Any], coordinates: Mapping[str, Any]) -> bool:
    return all(
        coordinates[name] in (value if isinstance(value, list) else [value])
        for name, value in exclusion.items()
    )
