"""How well a victim heals when more and more of its poison is known: from one row to all of it.

Source: the setting of "Potion: Towards Poison Unlearning", DMLR 2024, arXiv 2406.09173, where a
defender has discovered from one row to all of the poison. Published is one set of rows at each
share; here several may be drawn. All else is as in the recipe, its seed too, so that draws differ
by the rows alone. The first of them are those that ``discovered_share`` tells with that seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import pandas as pd
from pydantic import Field, model_validator

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveInt

if TYPE_CHECKING:
    import numpy as np

    from backdoor_pipeline.modelling.bundle import Bundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.inputs import Inputs

Record = dict[str, Any]


class DiscoveryParams(ParameterGroup):
    """The shares of the poison that are told, and how often.

    Attributes:
        shares: Of the poisoned rows, each larger than the one before; one row comes before them.
        draws: Sets of rows that are told at each share; where all rows are told, there is one.
    """

    shares: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]
    draws: PositiveInt

    @model_validator(mode="after")
    def _increasing(self) -> DiscoveryParams:
        if any(before >= after for before, after in pairwise(self.shares)):
            raise ValueError(
                f"discovery.shares {self.shares} do not increase; sort them, and give each once"
            )
        return self


class Told(NamedTuple):
    """How much is told, under the names by which ``discovered_share`` reads it."""

    rows: int | None = None
    share: float | None = None
    ids: None = None


class Point(NamedTuple):
    """A set of rows that the defender is told."""

    draw: int
    suspects: pd.DataFrame


class Step(NamedTuple):
    """An unlearner: its function, of a model and of what ``inputs`` names."""

    name: str
    function: Callable[..., tuple[Any, Record]]
    inputs: tuple[str, ...]


def points(
    tell: Callable[[Told, int], pd.DataFrame], n_poisoned: int, params: DiscoveryParams, seed: int
) -> list[Point]:
    """All sets of rows that are told, the smallest first; a share of no more rows is left out.

    Args:
        tell: The suspects, given how much is told and a seed that draws them.
        n_poisoned: How many rows there are to tell.
        params: Shares and draws.
        seed: Of the first draw; the next have those after it.

    Raises:
        InputError: There are none to tell.
    """
    if not n_poisoned:
        raise InputError(
            "no training row is poisoned, so that there is nothing to discover; give a poison.rate "
            "above 0"
        )
    found: list[Point] = []
    for told in (Told(rows=1), *(Told(share=share) for share in params.shares)):
        n_before = len(found[-1].suspects) if found else 0
        for draw in range(params.draws):
            suspects = tell(told, seed + draw)
            if len(suspects) == n_before:
                break
            found.append(Point(draw, suspects))
            if len(suspects) == n_poisoned:
                break
    return found


def heal(
    victim: Bundle, steps: Sequence[Step], there: Mapping[str, Any]
) -> tuple[Bundle, dict[str, Record]]:
    """The model that the unlearners make of the victim one after the other, and what each did.

    Args:
        victim: Unchanged.
        steps: The unlearners.
        there: What their inputs name, ``suspects`` among it.
    """
    records, healed = {}, victim
    for step in steps:
        healed, records[step.name] = step.function(healed, *(there[name] for name in step.inputs))
    return healed, records


def ask(
    bundle: Bundle, tests: Mapping[str, tuple[np.ndarray, Inputs]], compute: ComputeParams
) -> pd.DataFrame:
    """What a model predicts: ``test_set``, ``example_id`` and ``predicted``.

    Args:
        bundle: The model.
        tests: Example ids and inputs, by test set.
        compute: Where to compute.
    """
    tables = [
        pd.DataFrame({"test_set": name, "example_id": ids}).assign(
            predicted=predict(bundle, inputs, compute).argmax(axis=1).astype("int64")
        )
        for name, (ids, inputs) in tests.items()
    ]
    return pd.concat(tables, ignore_index=True)
