"""A dual encoder of images and texts as the training loop sees it; the equations: ``matching``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import Module
from torch.nn.functional import normalize


class Matcher(Module):
    """A dual encoder as a classifier of the images of a batch by its captions.

    Args:
        model: ``CLIPModel``, ``VisionTextDualEncoderModel`` or one with the same parts.
    """

    model: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, pixel_values: torch.Tensor, captions: torch.Tensor, **texts: torch.Tensor
    ) -> SimpleNamespace:
        """``logits``, (n, n): of each image the scaled similarities to the captions of all.

        Args:
            pixel_values: Of n images.
            captions: Which of ``texts`` is each image's, (n,).
            texts: ``input_ids`` and ``attention_mask`` of captions, each once; or instead what the
                text tower makes of them, ``text_states``, (n_captions, hidden).
        """
        f, g = features(self.model, pixel_values, captions, **texts)
        return SimpleNamespace(logits=self.model.logit_scale.exp() * f @ g.T)


class TwoViewMatcher(Module):
    """A dual encoder that also compares images with changed ones, and captions likewise.

    Args:
        model: As of ``Matcher``.
    """

    model: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, pairs: dict[str, torch.Tensor], others: dict[str, torch.Tensor]
    ) -> SimpleNamespace:
        """``logits``, (3, n, n): images to captions, images to changed ones, captions likewise."""
        (f, g), (f_other, g_other) = (features(self.model, **batch) for batch in (pairs, others))
        products = torch.stack([f @ g.T, f @ f_other.T, g @ g_other.T])
        return SimpleNamespace(logits=self.model.logit_scale.exp() * products)


def features(
    model: Any, pixel_values: torch.Tensor, captions: torch.Tensor, **texts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """f and g of pairs, unit vectors, both (n, d); arguments as of ``Matcher.forward``."""
    return image_vectors(model, pixel_values), unit(projected(model, **texts))[captions]


def image_vectors(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """f of images, unit vectors, (n, d)."""
    return unit(model.get_image_features(pixel_values).pooler_output)


def projected(
    model: Any, text_states: torch.Tensor | None = None, **tokens: torch.Tensor
) -> torch.Tensor:
    """The text features of ``tokens``, or of what the text tower has made of them."""
    if text_states is None:
        return model.get_text_features(**tokens).pooler_output
    return model.text_projection(text_states)


def unit(features: torch.Tensor) -> torch.Tensor:
    """Vectors of length 1, float32."""
    return normalize(features.float(), dim=-1)
