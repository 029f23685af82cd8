"""A Kedro session that runs only what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.pipeline import Pipeline

from backdoor_pipeline.errors import InputError, did_you_mean
from backdoor_pipeline.recipes import ALL, CROSSINGS, DEFAULT, TOLD, crossed, modality_of

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext

    from backdoor_pipeline.parameters import Parameters
    from backdoor_pipeline.recipes import Modality

DISCOVERY = "discovery"  # the pipeline that can be had for any unlearner
OF_TEXTS = ("fourier", "audit")  # those that are no recipes, and of texts alone
SAME = ("tags", "node_names", "from_nodes", "to_nodes", "from_inputs", "to_outputs")
FILTERS = {name: name for name in SAME} | {"namespaces": "node_namespaces"}
"""What a run's options that select nodes are called by ``Pipeline.filter``."""


class ProjectSession(KedroSession):
    """Skips every node whose outputs exist, unless the parameter ``fresh`` is true.

    Kedro's own check looks at existence alone; here that is enough, because an output's path holds
    a hash of everything it depends on (``keys``).
    """

    _crossings: frozenset[str] = frozenset()
    _context: KedroContext | None = None
    _made_of: object = None

    def run(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The outputs that are not kept in files.

        Raises:
            InputError: There is no such pipeline, node or tag, or a parameter is wrong.
        """
        names = list(kwargs.get("pipeline_names") or [DEFAULT])
        parameters, kwargs["pipeline_names"] = self.prepare(names)
        _check_selection(kwargs)
        kwargs["only_missing_outputs"] = not parameters.fresh
        return super().run(**kwargs)

    def prepare(self, names: list[str]) -> tuple[Parameters, list[str]]:
        """Make what only these pipelines need, so that the next context has it too.

        Args:
            names: Of pipelines, at least one.

        Returns:
            The parameters, and the names of what is to be run.

        Raises:
            InputError: They do not go together with each other or with a parameter.
        """
        modality = modality_of(names)
        default = "image" if names == [DISCOVERY] else modality
        if default is not None:  # unless it was given, that of the recipes
            given = self._store.get("runtime_params") or {}
            self._store["runtime_params"] = {"modality": default, **given}
        loader: Any = self.load_context().config_loader
        parameters: Parameters = loader.typed_parameters
        if modality not in {None, parameters.modality}:
            raise InputError(
                f"modality is '{parameters.modality}', but {', '.join(names)} is for "
                f"{modality} data; leave modality out"
            )
        meant = [_meant(name, parameters) for name in names]
        chosen = [
            DISCOVERY if name == DISCOVERY else recipe
            for name, recipe in zip(names, meant, strict=True)
        ]
        pipelines.set_requested(chosen)  # later, it would drop what is added
        for name, recipe in zip(chosen, meant, strict=True):
            _add(name, recipe, parameters.modality)
        self._crossings = frozenset(CROSSINGS.keys() & {*meant})
        return parameters, chosen

    def load_context(self) -> KedroContext:
        """The context; the same one for as long as what it is made of is the same."""
        made_of = deepcopy(self._store.get("runtime_params")), self._crossings
        if self._context is None or self._made_of != made_of:
            self._context, self._made_of = super().load_context(), made_of
        return self._context

    def _get_config_loader(self) -> Any:
        loader: Any = super()._get_config_loader()
        loader.recipes |= self._crossings
        return loader


def _meant(name: str, parameters: Parameters) -> str:
    """The recipe that is run under the name of a pipeline; of a stage, its own name."""
    if name == DISCOVERY and parameters.modality not in TOLD:
        raise InputError(f"{name} is for {' and '.join(TOLD)} data; leave modality out")
    asked = TOLD[parameters.modality] if name == DISCOVERY else name
    recipe = crossed(asked, parameters.detector, parameters.unlearner)
    if name == DISCOVERY and not ALL[recipe].curve:
        raise InputError(f"{name} has the detector discovered_share; leave detector out")
    if name in OF_TEXTS and parameters.modality != "text":
        raise InputError(
            f"{name} is for text data, but modality is '{parameters.modality}'; run it on its own, "
            "and leave modality out"
        )
    return recipe


def _add(name: str, recipe: str, modality: Modality) -> None:
    """Make the pipeline of a chosen detector or unlearner, or a stage as it is of the modality."""
    from backdoor_pipeline import pipeline_registry

    stages = pipeline_registry.create_stages(modality)
    if name == DISCOVERY:
        pipelines[name] = pipeline_registry.create_discovery(recipe)
    elif name in CROSSINGS:
        pipelines[name] = pipeline_registry.create_recipe(name)
    elif name in stages:
        pipelines[name] = stages[name]


def _check_selection(options: Mapping[str, Any]) -> None:
    names = options.get("pipeline_names") or ["__default__"]
    for name in names:
        if name not in pipelines:
            known = {*pipelines} - {"__default__"}
            raise InputError(f"there is no pipeline '{name}'{did_you_mean(name, known)}")
    chosen = {FILTERS[name]: value for name, value in options.items() if name in FILTERS}
    try:
        sum((pipelines[name] for name in names), Pipeline([])).filter(**chosen)
    except ValueError as error:
        asked = ", ".join(f"{name}={list(value)}" for name, value in chosen.items() if value)
        raise InputError(
            f"{error} Asked for {asked} (`kedro registry describe {names[0]}` lists all nodes)"
        ) from None
