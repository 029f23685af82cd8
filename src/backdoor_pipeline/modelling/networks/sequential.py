"""Classifiers of images whose layers follow one another, as models of transformers."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch.nn import Conv2d, Linear, Module, Sequential
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput


class SequentialClassifier(PreTrainedModel):
    """A network, each layer of which reads what the one before gives.

    Convolutions and the dense layer start as torch draws them, with biases of 0.

    Attributes:
        features: All layers but the dense one.
        classifier: The dense layer.
    """

    main_input_name = "pixel_values"

    features: Sequential
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

    def pooled(self, states: torch.Tensor) -> torch.Tensor:
        """What the dense layer reads, (n, channels), of (n, channels, height, width)."""
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
