"""The base of every typed parameter group, and the number types that groups share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Names = Annotated[list[str], Field(min_length=1)]


class ParameterGroup(BaseModel):
    """Parameters that belong together: typed, frozen, unknown names rejected.

    The numbers themselves stand in ``conf/base/parameters*.yml``, each with its unit and source, so
    the classes carry no defaults but those of switches that are off.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    def in_force(self) -> dict[str, Any]:
        """The values as plain types; of alternatives (the attacks) only the chosen ``settings``."""
        chosen = getattr(self, "settings", None)
        alternatives = {name for name, value in self if isinstance(value, ParameterGroup)}
        others = {
            name
            for name in alternatives
            if chosen is not None and getattr(self, name) is not chosen
        }
        return self.model_dump(mode="json", exclude=others)
