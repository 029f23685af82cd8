"""ResNet-9 for small images, as a model of transformers.

Source: "Potion: Towards Poison Unlearning", DMLR 2024, arXiv 2406.09173, whose network it is, layer
by layer, at width 1: 2,276,224 parameters for 10 classes. A unit is a convolution with bias, batch
normalisation and CELU (alpha 0.075).

Departures: a width factor; any number of channels; images of any size from 11 x 11; the last
maximum is taken by ``max``, whose gradient is the same on every run on a GPU as well.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.nn import CELU, BatchNorm2d, Conv2d, Linear, MaxPool2d, Module, Sequential
from torch.nn.functional import conv2d
from transformers import PretrainedConfig

from backdoor_pipeline.modelling.networks.sequential import (
    SequentialClassifier,
    SequentialEncoder,
)

ALPHA = 0.075  # of CELU


class ResNet9Config(PretrainedConfig):
    """The architecture; ``num_labels`` besides.

    Attributes:
        num_channels: 1 (grey) or 3 (colour).
        width: Factor of the channels 64, 128 and 256 between layers; 1 is as published.
    """

    model_type = "resnet9"

    num_channels: int = 3
    width: float | int = 1.0

    @property
    def hidden_size(self) -> int:
        """Channels after the last layer."""
        return self.channels(128)

    def channels(self, published: int) -> int:
        """Those of a layer, of which there are so many as published."""
        return max(1, round(published * self.width))


class Unit(Sequential):
    """Convolution, batch normalisation and CELU.

    In evaluation mode the normalisation is an affine map of each channel. There it is done to the
    convolution's parameters, which are far fewer than the values it gives.
    """

    def __init__(
        self, inside: int, outside: int, kernel: int = 3, stride: int = 1, padding: int = 1
    ) -> None:
        super().__init__(
            Conv2d(inside, outside, kernel, stride, padding),
            BatchNorm2d(outside),
            CELU(ALPHA, inplace=True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (n, inside, height, width) to (n, outside, height / stride, width / stride)."""
        convolution, norm, activation = cast("list[Any]", list(self))
        if norm.training:
            return super().forward(x)
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = convolution.weight * scale.view(-1, 1, 1, 1)
        bias = (convolution.bias - norm.running_mean) * scale + norm.bias
        return activation(conv2d(x, weight, bias, convolution.stride, convolution.padding))


class Residual(Module):
    """x + two units of x, (n, channels, height, width)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.units = Sequential(Unit(channels, channels), Unit(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From and to (n, channels, height, width)."""
        return x + self.units(x)


class ResNet9ForImageClassification(SequentialClassifier):
    """ResNet-9 with its dense layer, which reads the largest value of each channel."""

    config_class = ResNet9Config

    def __init__(self, config: ResNet9Config) -> None:
        super().__init__(config)
        self.features = layers(config)
        self.classifier = Linear(config.hidden_size, config.num_labels, bias=False)  # type: ignore[arg-type]
        self.post_init()

    def pooled(self, states: torch.Tensor) -> torch.Tensor:
        """From (n, channels, height, width) to (n, channels)."""
        return largest(states)


class ResNet9Model(SequentialEncoder):
    """ResNet-9 without its dense layer."""

    config_class = ResNet9Config

    def __init__(self, config: ResNet9Config) -> None:
        super().__init__(config)
        self.features = layers(config)
        self.post_init()

    def pooled(self, states: torch.Tensor) -> torch.Tensor:
        """From (n, channels, height, width) to (n, channels)."""
        return largest(states)


def layers(config: ResNet9Config) -> Sequential:
    """All layers but the dense one."""
    small, middle, large = (config.channels(n) for n in (64, 128, 256))
    return Sequential(
        Unit(config.num_channels, small),
        Unit(small, middle, kernel=5, stride=2, padding=2),
        Residual(middle),
        Unit(middle, large),
        MaxPool2d(2),
        Residual(large),
        Unit(large, middle, padding=0),
    )


def largest(states: torch.Tensor) -> torch.Tensor:
    """The largest value of each channel, (n, channels), of (n, channels, height, width)."""
    return states.flatten(start_dim=2).max(dim=2).values
