"""Networks of images whose layers follow one another, as models of transformers."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch.nn import Conv2d, Linear, Module, Sequential
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput


class SequentialNetwork(PreTrainedModel):
    """A network, each layer of which reads what the one before gives.

    Convolutions and dense layers start as torch draws them, with biases of 0.

    Attributes:
        features: All layers but a dense one.
    """

    main_input_name = "pixel_values"

    features: Sequential

    def pooled(self, states: torch.Tensor) -> torch.Tensor:
        """One vector for each image, (n, channels), of (n, channels, height, width)."""
        raise NotImplementedError

    def without_first(self, n_layers: int) -> Self:
        """The network from this layer of ``features`` on, which reads what those before it give.

        Its parameters are those of this one.
        """
        part = copy.copy(self)
        part._modules = {**self._modules, "features": self.features[n_layers:]}
        return part

    def _init_weights(self, module: Module) -> None:
        """Weights that were read from a file are left as they are, as transformers would do it."""
        super()._init_weights(module)
        if isinstance(module, Conv2d | Linear):
            module.reset_parameters()
            if module.bias is not None:
                init.zeros_(module.bias)


class SequentialClassifier(SequentialNetwork):
    """A network with a dense layer, ``classifier``, that reads ``pooled``."""

    classifier: Linear

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None
    ) -> ImageClassifierOutput:
        """Logits, (n, n_classes), of images, (n, channels, height, width).

        With ``labels``, (n,), also their mean cross-entropy.
        """
        logits = self.classifier(self.pooled(self.features(pixel_values)))
        return ImageClassifierOutput(
            None if labels is None else cross_entropy(logits, labels), logits
        )


class SequentialEncoder(SequentialNetwork):
    """A network without a dense layer, as the image tower of a dual encoder."""

    def forward(self, pixel_values: torch.Tensor, **_: object) -> BaseModelOutputWithPooling:
        """The states of the last layer, and a vector for each image as ``pooler_output``."""
        states = self.features(pixel_values)
        return BaseModelOutputWithPooling(states, self.pooled(states))
