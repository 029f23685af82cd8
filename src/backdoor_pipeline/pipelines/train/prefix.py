"""Prefix tuning (arXiv 2101.00190) by peft: a frozen model behind a few trained keys and values.

The prefix stays a part of the model; ``modelling.prefixes`` says how it is saved and loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.loading import positions
from backdoor_pipeline.modelling.prefixes import with_prefix
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveFloat, PositiveInt
from backdoor_pipeline.pipelines.train.injection import output_layer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PrefixParams(ParameterGroup):
    """How long the prefix is."""

    tokens: PositiveInt
    train_head: bool
    learning_rate: PositiveFloat


def adapt(model: PreTrainedModel, params: PrefixParams) -> PreTrainedModel:
    """``model`` behind a prefix; nothing else stays trainable but, if so, the head.

    Raises:
        InputError: The architecture takes no prefix.
    """
    prefixed = with_prefix(model, params.tokens)
    if params.train_head:
        output_layer(model).requires_grad_()
    return prefixed


def merge(model: PreTrainedModel, params: PrefixParams) -> None:
    """Nothing: a prefix cannot be merged."""


def check_length(encoder: PreTrainedModel, params: PrefixParams, max_length: int) -> None:
    """Nothing, if prefix and text together find room.

    Raises:
        InputError: They do not.
    """
    limit = positions(encoder)
    if limit is not None and params.tokens + max_length > limit:
        raise InputError(
            f"prefix.tokens {params.tokens} and model.max_length {max_length} are together beyond "
            f"the {limit} positions of the model; lower one of them"
        )
