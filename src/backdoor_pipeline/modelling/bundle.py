"""What travels as "a model": the network together with what makes its inputs of data."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from backdoor_pipeline.modelling.pixels import ImageFormat


class ModelBundle(NamedTuple):
    """A model of texts with the tokenizer it was trained with."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


class ImageBundle(NamedTuple):
    """A model of images with the format of the images it was trained with."""

    model: PreTrainedModel
    image_format: ImageFormat


class PairBundle(NamedTuple):
    """A dual encoder of images and texts with what makes its inputs of both."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    image_format: ImageFormat


Bundle = ModelBundle | ImageBundle | PairBundle
B = TypeVar("B", ModelBundle, ImageBundle, PairBundle)
"""One of the three; what comes out is of the kind that went in."""


class NoModel(NamedTuple):
    """Why there is no model where there could be one."""

    reason: str
