"""A Kedro session that runs only what is missing."""

from __future__ import annotations

from typing import Any

from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.parameters import did_you_mean


class ProjectSession(KedroSession):
    """Skips every node whose outputs exist, unless the parameter ``fresh`` is true.

    Kedro's own check looks at existence alone; here that is enough, because an output's path holds
    a hash of everything it depends on (``keys``).
    """

    def run(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The outputs that are not kept in files.

        Raises:
            InputError: A pipeline of that name is not there, or a parameter is wrong.
        """
        loader: Any = self.load_context().config_loader
        for name in kwargs.get("pipeline_names") or ():
            if name not in pipelines:
                known = {*pipelines} - {"__default__"}
                raise InputError(f"there is no pipeline '{name}'{did_you_mean(name, known)}")
        kwargs["only_missing_outputs"] = not loader.typed_parameters.fresh
        return super().run(**kwargs)
