"""The defender who was told a part of the poison: suspects that are known to be right.

Source: the setting of "Potion: Towards Poison Unlearning", DMLR 2024, arXiv 2406.09173, where
somebody has found some of the poisoned rows. It is the one detector that may read which rows are
poisoned, or it is given the user's own list.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveInt

NAMED_IDS = 5  # unknown ones that an error names


class DiscoveredShareParams(ParameterGroup):
    """What the defender was told: ``rows`` or ``ids`` where one of them is given, else ``share``.

    Attributes:
        share: Of the poisoned rows, at least one row.
        rows: Poisoned rows.
        ids: The user's own list of training rows, by ``example_id``.
    """

    share: Annotated[float, Field(gt=0, le=1)] | None
    rows: PositiveInt | None
    ids: list[int] | None

    @model_validator(mode="after")
    def _one_of_them(self) -> DiscoveredShareParams:
        if self.rows is not None and self.ids is not None:
            raise InputError("discovered_share has rows and ids; set one of them to null")
        if self.share is self.rows is self.ids is None:
            raise InputError("discovered_share has nothing set; give share, rows or ids")
        if self.ids == []:
            raise InputError("discovered_share.ids is empty; name a row, or set it to null")
        return self


def detect(
    poison_index: pd.DataFrame, example_ids: np.ndarray, params: DiscoveredShareParams, seed: int
) -> pd.DataFrame:
    """``suspects``: the discovered rows, all of them flagged.

    Args:
        poison_index: The poisoned training rows, by ``example_id``; their trigger is not told.
        example_ids: Of all training rows.
        params: How many were discovered, or which.
        seed: Draws them; with one seed, fewer rows are among more.

    Raises:
        InputError: More rows are asked for than there are, an id is that of no training row, or no
            other training row would be left.
    """
    chosen = _chosen(poison_index, example_ids, params, seed)
    if len(chosen) == len(example_ids):
        raise InputError(
            f"discovered_share tells all {len(chosen)} training rows, and none is left to keep; "
            "tell fewer"
        )
    return _suspects(chosen)


def _chosen(
    poison_index: pd.DataFrame, example_ids: np.ndarray, params: DiscoveredShareParams, seed: int
) -> np.ndarray:
    if params.ids is not None:
        unknown = sorted(set(params.ids) - set(example_ids.tolist()))
        if unknown:
            raise InputError(
                f"discovered_share.ids has {unknown[:NAMED_IDS]}, which are no training rows; "
                "their example_id stands in 03_primary/…/examples.parquet"
            )
        return np.unique(params.ids)
    poisoned = np.sort(poison_index["example_id"].to_numpy())
    n_rows = params.rows
    if n_rows is None:
        n_rows = min(len(poisoned), max(1, round(float(params.share or 0) * len(poisoned))))
    if n_rows > len(poisoned):
        raise InputError(
            f"discovered_share.rows is {n_rows}, but {len(poisoned)} rows are poisoned; lower it"
        )
    return np.sort(np.random.default_rng(seed).permutation(poisoned)[:n_rows])


def _suspects(ids: np.ndarray) -> pd.DataFrame:
    nothing = np.full(len(ids), np.nan)
    return pd.DataFrame(
        {
            "kind": pd.Series("example", index=range(len(ids)), dtype="str"),
            "key": ids.astype(np.int64),
            "score": np.ones(len(ids)),
            "p_value": nothing,
            "q_value": nothing,
            "flagged": np.ones(len(ids), dtype=bool),
            "evidence": pd.Series("told", index=range(len(ids)), dtype="str"),
        }
    )
