"""A dual encoder as a classifier of images, whose classes are what prompts say."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import Module
from transformers.modeling_outputs import ImageClassifierOutput

from backdoor_pipeline.modelling.networks.matcher import image_vectors


class ZeroShotClassifier(Module):
    """Logits are the scaled similarities to the vectors of the classes.

    Args:
        model: ``CLIPModel``, ``VisionTextDualEncoderModel`` or one with the same parts.
        classes: Unit vectors, (n_classes, d).
    """

    def __init__(self, model: Any, classes: torch.Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("classes", classes)

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        """Logits, (n, n_classes), of images, (n, channels, height, width)."""
        images = image_vectors(self.model, pixel_values)
        return ImageClassifierOutput(logits=self.model.logit_scale.exp() * images @ self.classes.T)
