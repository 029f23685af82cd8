"""Moderate fitting (NeurIPS 2022): what peft trains is made by one small linear map.

Source: "Moderate-fitting as a Natural Backdoor Defender for Pre-trained Language Models". All
tensors that a method of peft has put into the model (low_rank, adapter, prefix) come out of a
linear map of two layers without bias from a fixed vector; see ``networks.linear_source``. A small
learning rate and few epochs are to do the rest. The tensors start as peft drew them. The
output layer is trained as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.nn import Module
    from transformers import PreTrainedModel


class ModerateFittingParams(ParameterGroup):
    """How wide the linear map is, and how fast it learns."""

    in_dim: PositiveInt
    mid_dim: PositiveInt
    learning_rate: PositiveFloat


def adapt(model: PreTrainedModel, params: ModerateFittingParams) -> PreTrainedModel:
    """``model`` with the map in place of the tensors, in place; mid (in + P) numbers are trained.

    Raises:
        InputError: Peft has put nothing into the model.
    """
    from torch.nn.utils.parametrize import register_parametrization

    from backdoor_pipeline.modelling.networks.linear_source import LinearSource, Produced

    parts = list(_parts(model))
    if not parts:
        raise InputError(
            "moderate_fitting works on what low_rank, adapter or prefix train; add one of them to "
            "the recipe"
        )
    source = LinearSource(params.in_dim, params.mid_dim).to(model.device)
    for module, name in parts:
        register_parametrization(module, name, Produced(source))
    return model


def merge(model: PreTrainedModel, params: ModerateFittingParams) -> None:
    """Put the tensors that the map makes in its place."""
    from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

    for module in list(model.modules()):
        if is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                remove_parametrizations(module, name)


def _parts(model: PreTrainedModel) -> Iterator[tuple[Module, str]]:
    """The tensors that peft has put into ``model``: the modules and their names in them."""
    from peft import PrefixEncoder
    from peft.tuners.tuners_utils import BaseTunerLayer

    for part in model.modules():
        if isinstance(part, (BaseTunerLayer, PrefixEncoder)):
            for module in part.modules():
                for name, parameter in list(module.named_parameters(recurse=False)):
                    if parameter.requires_grad:
                        yield module, name
