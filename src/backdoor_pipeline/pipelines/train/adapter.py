"""The nearest that peft has to bottleneck adapters (arXiv 1902.00751): PEANuT, arXiv 2410.01870.

A bottleneck adapter stands behind the last dense layer of attention and of the feed-forward part
and adds to its output h = W x + b

    B relu(A h)            A: hidden -> bottleneck, B: bottleneck -> hidden, which starts at 0

Peft has none: what it puts into layers can be merged, which a function that is not linear in h
cannot. PEANuT stands in the same place, has A and B of the same shapes and start, and adds

    B relu(A W) x

so that the bottleneck bends the weights instead of each state; without the relu both are the same
but for the bias. It is linear in x, and merged into W exactly after training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backdoor_pipeline.modelling.prefixes import ordinary
from backdoor_pipeline.parameter_group import Names, ParameterGroup, PositiveFloat, PositiveInt
from backdoor_pipeline.pipelines.train import injection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TARGETS = {
    "bert": ["output.dense"],
    "roberta": ["output.dense"],
    "distilbert": ["out_lin", "lin2"],
    "deberta": ["output.dense"],
    "deberta-v2": ["output.dense"],
    "gpt2": ["c_proj"],
    "llama": ["o_proj", "down_proj"],
}
"""Architecture -> ends of the names of the layers that are adapted: the last of attention and of
the feed-forward part in each block."""


class AdapterParams(ParameterGroup):
    """How narrow the adapters are, and behind which layers."""

    bottleneck: PositiveInt
    train_head: bool
    learning_rate: PositiveFloat
    targets: Names | None = None


def adapt(model: PreTrainedModel, params: AdapterParams) -> PreTrainedModel:
    """``model`` with adapters, in place; nothing else stays trainable but, if so, the head.

    Raises:
        InputError: The architecture is unknown and no target is named, or a target is no layer.
    """
    from peft import PeanutConfig
    from transformers.pytorch_utils import Conv1D

    from backdoor_pipeline.modelling.networks.transposed import TransposedConv1D

    targets = injection.targets("adapter", model, params.targets, TARGETS)
    inner = ordinary(model)
    for name, module in list(inner.named_modules()):
        if isinstance(module, Conv1D) and name.endswith(tuple(f".{end}" for end in targets)):
            inner.set_submodule(name, TransposedConv1D(module))  # peft takes no other
    settings = PeanutConfig(r=params.bottleneck, act_fn="relu", target_modules=targets)
    injection.inject(model, settings, params.train_head)
    return model


def merge(model: PreTrainedModel, params: AdapterParams) -> None:
    """Make ``model`` an ordinary one again that computes the same, in place."""
    from backdoor_pipeline.modelling.networks.transposed import TransposedConv1D

    injection.take_out(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, TransposedConv1D):
            model.set_submodule(name, module.back())
