"""Small trained parts that peft puts beside the layers of a frozen model, and merges into them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.prefixes import ordinary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel


def targets(
    method: str,
    model: PreTrainedModel,
    chosen: list[str] | None,
    known: Mapping[str, list[str]],
) -> list[str]:
    """The ends of the names of the layers to adapt: ``chosen``, or those ``known`` for ``model``.

    Args:
        method: The parameter group, for the error.
        model: The model, which decides by its architecture.
        chosen: Ends of names, if the user gives any.
        known: Ends of names by architecture.

    Raises:
        InputError: The architecture is unknown and no target is named, or a target is no dense
            layer.
    """
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    architecture = model.config.model_type
    ends = known.get(architecture) if chosen is None else chosen
    if ends is None:
        raise InputError(
            f"{method}: which layers of a {architecture} model to adapt is not known; name them "
            f"with {method}.targets"
        )
    modules = dict(ordinary(model).base_model.named_modules())
    dense = {name for name, module in modules.items() if isinstance(module, Linear | Conv1D)}
    for end in ends:
        meant = {name for name in modules if f".{name}".endswith(f".{end}")}
        if not meant or not meant <= dense:
            there = sorted({name.split(".")[-1] for name in dense})
            raise InputError(
                f"{method}.targets: a {architecture} model has no dense layer '{end}'; there are: "
                f"{', '.join(there)}"
            )
    return ends


def inject(model: PreTrainedModel, settings: Any, train_head: bool) -> None:
    """Put the parts into ``model``, in place; nothing else stays trainable but, if so, the head.

    Args:
        model: The model.
        settings: Peft's configuration of the method.
        train_head: Whether the new output layer is trained.
    """
    from peft import inject_adapter_in_model

    inject_adapter_in_model(settings, ordinary(model))
    if train_head:
        output_layer(model).requires_grad_()


def take_out(model: PreTrainedModel) -> None:
    """Merge the parts into the layers that they were put beside, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            part: Any = module
            part.merge()
            model.set_submodule(name, part.get_base_layer())


def output_layer(model: PreTrainedModel) -> Any:
    """The last dense layer, whose outputs are the logits."""
    from torch.nn import Linear

    return [m for m in model.modules() if isinstance(m, Linear)][-1]
