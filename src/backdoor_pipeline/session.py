"""A Kedro session that runs only what is missing."""

from __future__ import annotations

from typing import Any

from kedro.framework.session import KedroSession


class ProjectSession(KedroSession):
    """Skips every node whose outputs exist, unless the parameter ``fresh`` is true.

    Kedro's own check looks at existence alone; here that is enough, because an output's path holds
    a hash of everything it depends on (``keys``).
    """

    def run(self, *args: Any, only_missing_outputs: bool = True, **kwargs: Any) -> dict[str, Any]:
        fresh = self.load_context().config_loader.typed_parameters.fresh
        return super().run(*args, only_missing_outputs=not fresh, **kwargs)
