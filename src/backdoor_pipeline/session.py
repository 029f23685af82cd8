"""A Kedro session that runs only what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.pipeline import Pipeline

from backdoor_pipeline.errors import InputError, did_you_mean
from backdoor_pipeline.recipes import DEFAULT, modality_of

SAME = ("tags", "node_names", "from_nodes", "to_nodes", "from_inputs", "to_outputs")
FILTERS = {name: name for name in SAME} | {"namespaces": "node_namespaces"}
"""What a run's options that select nodes are called by ``Pipeline.filter``."""


class ProjectSession(KedroSession):
    """Skips every node whose outputs exist, unless the parameter ``fresh`` is true.

    Kedro's own check looks at existence alone; here that is enough, because an output's path holds
    a hash of everything it depends on (``keys``).
    """

    def run(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The outputs that are not kept in files.

        Raises:
            InputError: There is no such pipeline, node or tag, or a parameter is wrong.
        """
        names = kwargs.get("pipeline_names") or [DEFAULT]
        modality = modality_of(names)
        if modality is not None:  # unless it was given, that of the recipes
            given = self._store.get("runtime_params") or {}
            self._store["runtime_params"] = {"modality": modality, **given}
        loader: Any = self.load_context().config_loader
        if modality not in {None, loader.typed_parameters.modality}:
            raise InputError(
                f"modality is '{loader.typed_parameters.modality}', but {', '.join(names)} is for "
                f"{modality} data; leave modality out"
            )
        _check_selection(kwargs)
        kwargs["only_missing_outputs"] = not loader.typed_parameters.fresh
        return super().run(**kwargs)


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
