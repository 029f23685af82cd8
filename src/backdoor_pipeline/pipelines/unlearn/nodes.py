"""Nodes of the unlearn stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from backdoor_pipeline.modelling.bundle import ModelBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.loading import ModelParams
from backdoor_pipeline.pipelines.unlearn import fine_tune, token_replacement
from backdoor_pipeline.pipelines.unlearn.fine_tune import FineTuneParams
from backdoor_pipeline.pipelines.unlearn.token_replacement import TokenReplacementParams

if TYPE_CHECKING:
    from collections.abc import Callable


def replace_tokens(
    victim_model: ModelBundle,
    base_model: ModelBundle,
    suspects: pd.DataFrame,
    params: TokenReplacementParams,
) -> ModelBundle:
    """The victim with the embedding rows of flagged tokens overwritten."""
    return token_replacement.unlearn(victim_model, base_model, suspects, params)


def fine_tune_purified(
    unlearned_model: ModelBundle,
    examples: pd.DataFrame,
    params: FineTuneParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> ModelBundle:
    """The unlearned model after the optional light fine-tune on clean rows (off by default)."""
    return fine_tune.fine_tune(unlearned_model, examples, params, model.max_length, compute, seed)


UNLEARNERS: dict[str, Callable[..., ModelBundle]] = {"token_replacement": replace_tokens}
"""Name of each unlearner (also of its parameter group) and its node function.

Every one takes (victim_model, base_model, suspects, its parameters).
"""
