"""Multiple radial scalings of one layer near the output (MuScleLoRA, arXiv 2402.12026).

BERT-like classifiers get it in the dense layer before the output layer. Models with a single
output layer ``score`` (GPT-2, Llama) get a head of two, ``Linear(hidden → 16) → dropout 0.1 →
Linear(16 → classes)``, both without bias, and it in the first of them. After training everything is
merged: the branch into the dense layer, the head of two into one ``score``.

Departures from the published code: R may start at 0 (``zero_init``), and ``mslrDropout``, which is
stored there but never applied, does not exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.prefixes import ordinary
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIRST_OF_HEAD = "score.0"
"""Where the only output layer ``score`` becomes a head of two, the first of them."""
LAYERS = {
    "bert": "bert.pooler.dense",
    "roberta": "classifier.dense",
    "distilbert": "pre_classifier",
    "deberta": "pooler.dense",
    "deberta-v2": "pooler.dense",
    "gpt2": FIRST_OF_HEAD,
    "llama": FIRST_OF_HEAD,
}
"""Architecture -> the layer that is scaled."""

WIDTH, DROPOUT = 16, 0.1


class RadialScalingParams(ParameterGroup):
    """Which layer is scaled, and by how much."""

    bands: Annotated[list[PositiveFloat], Field(min_length=1)]
    rank: PositiveInt
    alpha: PositiveFloat
    zero_init: bool
    layer: str | None = None


def adapt(model: PreTrainedModel, params: RadialScalingParams) -> PreTrainedModel:
    """``model`` with the scaling layer, in place; what is drawn comes from torch's generator.

    Raises:
        InputError: The layer to scale is not known, or it is no dense layer of ``model``.
    """
    from torch.nn import Dropout, Linear, Sequential

    from backdoor_pipeline.modelling.networks.radial_scaling import RadialScaling

    whole, model = model, ordinary(model)
    name = layer_name(model, params)
    if name == FIRST_OF_HEAD and hasattr(model, "score"):
        score: Any = model.score
        last = Linear(WIDTH, score.out_features, bias=False)
        last.requires_grad_(score.weight.requires_grad)
        first = Linear(score.in_features, WIDTH, bias=False)
        model.score = Sequential(first, Dropout(DROPOUT), last).to(score.weight)
    layer = dict(model.named_modules()).get(name)
    if not isinstance(layer, Linear):
        dense = [name for name, module in model.named_modules() if isinstance(module, Linear)]
        raise InputError(
            f"radial_scaling.layer: a {model.config.model_type} model has no dense layer '{name}' "
            f"that is free; there are: …, {', '.join(dense[-5:])}"
        )
    scaled = RadialScaling(layer, params.bands, params.rank, params.alpha, params.zero_init)
    model.set_submodule(name, scaled.to(layer.weight.device))
    return whole


def merge(model: PreTrainedModel, params: RadialScalingParams) -> None:
    """Make ``model`` an ordinary one again that computes the same in evaluation, in place."""
    from torch.nn import Linear

    model = ordinary(model)
    name = layer_name(model, params)
    scaled: Any = model.get_submodule(name)
    model.set_submodule(name, scaled.merged())
    if name == FIRST_OF_HEAD:
        first, _, last = model.score  # type: ignore[misc]
        score = Linear(first.in_features, last.out_features, bias=False).to(first.weight)
        score.weight.data = last.weight.data @ first.weight.data
        model.score = score


def layer_name(model: PreTrainedModel, params: RadialScalingParams) -> str:
    """The name of the layer to scale.

    Raises:
        InputError: It is not known for this architecture.
    """
    architecture = model.config.model_type
    name = params.layer or LAYERS.get(architecture)
    if name is None:
        raise InputError(
            f"radial_scaling: which layer of a {architecture} model to scale is not known; name it "
            "with radial_scaling.layer"
        )
    return name
