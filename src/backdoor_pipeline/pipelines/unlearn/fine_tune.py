"""The optional light fine-tune after unlearning, on clean labelled rows of the dev split.

Source: "Backdoor Token Unlearning", arXiv 2501.03272, stage 4. The published script always runs it
(on test rows); here it is off unless asked for, and its rows are counted as clean rows consumed.
"""

from __future__ import annotations

import copy

import pandas as pd

from backdoor_pipeline.modelling.bundle import ModelBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.training import OptimisationParams, fit, labelled
from backdoor_pipeline.parameter_group import Count, ParameterGroup


class FineTuneParams(ParameterGroup):
    """``rows`` clean rows of the dev split (0: no fine-tune) and how to fit them."""

    rows: Count
    optimisation: OptimisationParams


def fine_tune(
    bundle: ModelBundle,
    examples: pd.DataFrame,
    params: FineTuneParams,
    max_length: int,
    compute: ComputeParams,
    seed: int,
) -> tuple[ModelBundle, dict[str, int]]:
    """A copy of ``bundle`` fitted to clean rows; ``bundle`` itself where ``params.rows`` is 0.

    Returns:
        The classifier, and ``dev_rows``: how many rows were used.
    """
    rows = clean_rows(examples, params, seed)
    if rows.empty:
        return bundle, {"dev_rows": 0}
    tuned = ModelBundle(copy.deepcopy(bundle.model), bundle.tokenizer)
    data = labelled(rows, bundle, max_length)
    fit(tuned, data, None, params.optimisation, compute, seed, what="fine-tune")
    return tuned, {"dev_rows": len(rows)}


def clean_rows(examples: pd.DataFrame, params: FineTuneParams, seed: int) -> pd.DataFrame:
    """The dev rows that the fine-tune uses: at most ``params.rows``, drawn with ``seed``."""
    dev = examples[examples["split"] == "dev"]
    return dev.sample(min(params.rows, len(dev)), random_state=seed)
