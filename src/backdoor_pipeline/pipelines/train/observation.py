"""What a classifier says of some dev rows, clean and triggered, while it learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveInt

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.bundle import ModelBundle
    from backdoor_pipeline.modelling.device import ComputeParams

BATCH_ROWS = 32


class ObservationParams(ParameterGroup):
    """How many rows are looked at, and how often."""

    rows: Annotated[int, Field(ge=2)]
    every: PositiveInt


class Observer:
    """Collects the predictions of a model in training; call it with the number of steps made.

    Args:
        bundle: The model.
        clean: Dev rows; ``params.rows`` of them are drawn.
        triggered: Triggered dev rows, likewise.
        params: How many rows, and after how many steps each.
        max_length: Tokens per text.
        compute: Device and precision.
        seed: Draws the rows.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        clean: pd.DataFrame,
        triggered: pd.DataFrame,
        params: ObservationParams,
        max_length: int,
        compute: ComputeParams,
        seed: int,
    ) -> None:
        def drawn(rows: pd.DataFrame) -> pd.DataFrame:
            return rows.sample(min(params.rows, len(rows)), random_state=seed).sort_index()

        both = {"clean": drawn(clean), "triggered": drawn(triggered)}
        self._rows = pd.concat(
            [rows[["example_id", "label", "text"]].assign(test_set=n) for n, rows in both.items()],
            ignore_index=True,
        )
        self._tokens = tokenise(self._rows["text"], bundle.tokenizer, max_length)
        self._bundle, self._compute, self._every = bundle, compute, params.every
        self._seen: dict[int, np.ndarray] = {}

    def __call__(self, step: int) -> None:
        if step % self._every == 0:
            self._seen[step] = predict(self._bundle, self._tokens, self._compute, BATCH_ROWS)

    def table(self) -> pd.DataFrame:
        """``observations``: a row for each step, text and class."""
        n_classes = next(iter(self._seen.values())).shape[1]
        names = ["test_set", "example_id", "label"]
        rows = self._rows[names].loc[np.repeat(self._rows.index, n_classes)]
        tables = [
            rows.assign(
                step=step,
                probability=probabilities.ravel().clip(0, 1).astype(np.float64),
                **{"class": np.tile(np.arange(n_classes), len(self._rows))},
            )
            for step, probabilities in self._seen.items()
        ]
        return pd.concat(tables, ignore_index=True).astype({"step": "int64", "class": "int64"})
