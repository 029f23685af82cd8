"""The base of every typed parameter group, and the number types that groups share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]


class ParameterGroup(BaseModel):
    """Parameters that belong together: typed, frozen, unknown names rejected.

    The numbers themselves stand in ``conf/base/parameters*.yml``, each with its unit and source, so
    the classes carry no defaults but those of switches that are off.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
