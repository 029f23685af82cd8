"""Low-rank adaptation (LoRA, arXiv 2106.09685) by peft: frozen weights, a small trained difference.

The difference is merged into the weights after training, so that the model is an ordinary one.
MuScleLoRA (arXiv 2402.12026) leaves the new output layer frozen as it was drawn; ``train_head``
trains it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.parameter_group import (
    ParameterGroup,
    PositiveFloat,
    PositiveInt,
    Share,
)

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
    targets: list[str] | None = None


def adapt(model: PreTrainedModel, params: LowRankParams) -> None:
    """Put LoRA into ``model``, in place; nothing else stays trainable but, if asked for, the head.

    Raises:
        InputError: The architecture is unknown and no target is named, or a target is no layer.
    """
    from peft import LoraConfig, inject_adapter_in_model

    architecture = model.config.model_type
    targets = params.targets or TARGETS.get(architecture)
    if targets is None:
        raise InputError(
            f"low_rank: which layers of a {architecture} model to adapt is not known; name them "
            "with low_rank.targets"
        )
    names = {name.split(".")[-1] for name, _ in model.base_model.named_modules()}
    if unknown := sorted(set(targets) - names):
        raise InputError(
            f"low_rank.targets: a {architecture} model has no layer '{unknown[0]}'; there are: "
            f"{', '.join(sorted(names - {''}))}"
        )
    settings = LoraConfig(
        r=params.rank, lora_alpha=params.alpha, lora_dropout=params.dropout, target_modules=targets
    )
    inject_adapter_in_model(settings, model)
    if params.train_head:
        output_layer(model).requires_grad_()


def merge(model: PreTrainedModel, params: LowRankParams) -> None:
    """Add the difference to the weights and take LoRA out of ``model`` again, in place."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            layer: Any = module
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())


def output_layer(model: PreTrainedModel) -> Any:
    """The last dense layer, whose outputs are the logits."""
    from torch.nn import Linear

    return [m for m in model.modules() if isinstance(m, Linear)][-1]
