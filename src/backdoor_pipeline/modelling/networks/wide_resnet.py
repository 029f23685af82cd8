"""Wide residual network WRN-28-10, as a model of transformers.

Source: "Potion: Towards Poison Unlearning", DMLR 2024, arXiv 2406.09173, whose network it is, at
width 1: 36,547,940 parameters for 100 classes. Three stages of four pre-activation blocks; unlike
the network of "Wide Residual Networks" (arXiv 1605.07146), convolutions have biases, the second one
of a block has the stride, shortcuts are normalised, and nothing follows the last stage but the mean
over the image.

Departures: a width factor; any number of channels; images of any size, over which the mean is
taken (published: over 8 x 8 places, which are all of 32 x 32 pixels).
"""

from __future__ import annotations

import torch
from torch.nn import BatchNorm2d, Conv2d, Identity, Linear, Module, ReLU, Sequential
from transformers import PretrainedConfig

from backdoor_pipeline.modelling.networks.sequential import SequentialClassifier

STEM = 16  # channels after the first convolution, at any width
STAGES = ((160, 1), (320, 2), (640, 2))  # channels and stride
BLOCKS = 4  # of a stage


class WideResNetConfig(PretrainedConfig):
    """The architecture; ``num_labels`` besides.

    Attributes:
        num_channels: 1 (grey) or 3 (colour).
        width: Factor of the stages' channels 160, 320 and 640; 1 is as published.
    """

    model_type = "wide_resnet"

    num_channels: int = 3
    width: float | int = 1.0


class Block(Module):
    """A pre-activation block: its convolutions' output is added to its (projected) input."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.convolutions = Sequential(
            BatchNorm2d(inside),
            ReLU(),
            Conv2d(inside, outside, 3, padding=1),
            BatchNorm2d(outside),
            ReLU(),
            Conv2d(outside, outside, 3, stride, padding=1),
        )
        self.shortcut: Module = Identity()
        if inside != outside or stride > 1:
            self.shortcut = Sequential(Conv2d(inside, outside, 1, stride), BatchNorm2d(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (n, inside, height, width) to (n, outside, height / stride, width / stride)."""
        return self.convolutions(x) + self.shortcut(x)


class WideResNetForImageClassification(SequentialClassifier):
    """The wide residual network with its dense layer, which reads the mean of each channel."""

    config_class = WideResNetConfig

    def __init__(self, config: WideResNetConfig) -> None:
        super().__init__(config)
        layers: list[Module] = [Conv2d(config.num_channels, STEM, 3, padding=1)]
        inside = STEM
        for published, stride in STAGES:
            outside = max(1, round(published * config.width))
            for position in range(BLOCKS):
                layers.append(Block(inside, outside, stride if position == 0 else 1))
                inside = outside
        self.features = Sequential(*layers)
        self.classifier = Linear(inside, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    def pooled(self, states: torch.Tensor) -> torch.Tensor:
        """From (n, channels, height, width) to (n, channels)."""
        return states.mean(dim=(2, 3))
