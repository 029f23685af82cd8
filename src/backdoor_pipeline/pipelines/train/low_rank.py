"""Low-rank adaptation (LoRA, arXiv 2106.09685) by peft: frozen weights, a small trained difference.

The difference is merged into the weights after training, so that the model is an ordinary one.
MuScleLoRA (arXiv 2402.12026) leaves the new output layer frozen as it was drawn; ``train_head``
trains it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backdoor_pipeline.parameter_group import (
    Names,
    ParameterGroup,
    PositiveFloat,
    PositiveInt,
    Share,
)
from backdoor_pipeline.pipelines.train import injection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TARGETS = {
    "bert": ["query", "value"],
    "roberta": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "deberta": ["in_proj"],
    "deberta-v2": ["query_proj", "value_proj"],
    "gpt2": ["c_attn"],
    "llama": ["q_proj", "v_proj"],
}
"""Architecture -> the layers that are adapted, those of queries and values."""


class LowRankParams(ParameterGroup):
    """How large the trained difference is, and of which layers."""

    rank: PositiveInt
    alpha: PositiveInt
    dropout: Share
    train_head: bool
    learning_rate: PositiveFloat
    targets: Names | None = None


def adapt(model: PreTrainedModel, params: LowRankParams) -> PreTrainedModel:
    """``model`` with LoRA, in place; nothing else stays trainable but, if asked for, the head.

    Raises:
        InputError: The architecture is unknown and no target is named, or a target is no layer.
    """
    from peft import LoraConfig

    settings = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        target_modules=injection.targets("low_rank", model, params.targets, TARGETS),
    )
    injection.inject(model, settings, params.train_head)
    return model


def merge(model: PreTrainedModel, params: LowRankParams) -> None:
    """Add the difference to the weights and take LoRA out of ``model`` again, in place."""
    injection.take_out(model)
