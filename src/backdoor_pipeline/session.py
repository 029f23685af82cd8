"""A Kedro session that runs only what is missing."""

from __future__ import annotations

from typing import Any

from kedro.framework.session import KedroSession


class ProjectSession(KedroSession):
    """Skips every node whose outputs exist, unless the parameter ``fresh`` is true.

    Kedro's own check looks at existence alone; here that is enough, because an output's path holds
    a hash of everything it depends on (``keys``).
    """

    def run(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        loader: Any = self.load_context().config_loader
        kwargs["only_missing_outputs"] = not loader.typed_parameters.fresh
        return super().run(**kwargs)
