"""Dual encoders of images and texts (CLIP) by name, folder or hub id: drawn anew, loaded, saved.

A folder is that of transformers: ``config.json``, ``model.safetensors``, a tokenizer and
``preprocessor_config.json``. Nothing in it is executed (no remote code) or unpickled.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.bundle import PairBundle
from backdoor_pipeline.modelling.folders import ModelParams, model_folder
from backdoor_pipeline.modelling.image_models import (
    PREPROCESSING,
    image_format_of,
    preprocessing,
    preprocessing_of,
    register,
)
from backdoor_pipeline.modelling.loading import (
    load_pretrained,
    load_tokenizer,
    positions,
    quiet_transformers,
)

if TYPE_CHECKING:
    from pathlib import Path

    from backdoor_pipeline.modelling.bundle import ModelBundle
    from backdoor_pipeline.modelling.pixels import ImageFormat

TOWERS = ("resnet9",)
"""Image towers that are drawn anew."""

PARTS = ("vision_model", "text_model", "visual_projection", "text_projection", "logit_scale")
"""What a dual encoder is made of, by the names that transformers gives it."""


def dual_encoder(params: ModelParams, image_format: ImageFormat, seed: int) -> PairBundle:
    """The dual encoder that ``params`` name: with a tower drawn anew, or as it was saved.

    Args:
        params: Which one.
        image_format: What a tower that is drawn anew is to read.
        seed: Draws it.

    Raises:
        InputError: As ``new_dual_encoder`` and ``load_dual_encoder``.
    """
    if params.tower is None:
        return load_dual_encoder(params)
    encoder = load_pretrained(params)
    return new_dual_encoder(
        params.tower, encoder, image_format, params.width, params.dimensions, seed
    )


def new_dual_encoder(
    tower: str,
    text_encoder: ModelBundle,
    image_format: ImageFormat,
    width: float,
    dimensions: int,
    seed: int,
) -> PairBundle:
    """A dual encoder with an image tower that is drawn anew, float32, in evaluation mode.

    Args:
        tower: One of ``TOWERS``.
        text_encoder: A public encoder of texts, whose weights are copied.
        image_format: What the tower is to read.
        width: Factor of the tower's channels, above 0.
        dimensions: Of the common space.
        seed: Of the tower and of both projections.

    Raises:
        InputError: There is no such tower, or the encoder has no vector for a text.
    """
    import copy

    import torch
    from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel

    from backdoor_pipeline.modelling.networks.resnet9 import ResNet9Config, ResNet9Model

    if tower not in TOWERS:
        raise InputError(
            f"there is no image tower '{tower}' to draw anew; take one of {sorted(TOWERS)}, or "
            "the folder or hub id of a whole dual encoder"
        )
    quiet_transformers()
    register()
    texts = copy.deepcopy(text_encoder.model)
    if getattr(texts, "pooler", None) is None:
        raise InputError(
            f"a {texts.config.model_type} encoder has no pooler, which gives a vector for a text; "
            "choose another one, such as minilm"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        images = ResNet9Model(ResNet9Config(num_channels=image_format.channels, width=width))
        config = VisionTextDualEncoderConfig.from_vision_text_configs(
            images.config, texts.config, projection_dim=dimensions
        )
        model = VisionTextDualEncoderModel(config, images, texts)
    return PairBundle(model.eval(), text_encoder.tokenizer, image_format)


def load_dual_encoder(params: ModelParams) -> PairBundle:
    """A whole dual encoder from a folder or the hub, float32, in evaluation mode.

    Raises:
        InputError: The folder or hub id does not exist or cannot be reached, a part is missing or
            broken, asks for code of its own or is there only as a pickle, or it is no dual encoder.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    quiet_transformers()
    register()
    tokenizer = load_tokenizer(params)
    folder = model_folder(params.name)
    if folder is not None and not (folder / PREPROCESSING).is_file():
        raise InputError(
            f"model folder {folder} has no {PREPROCESSING}, which says how pixels are normalised; "
            "save it there: `image_processor.save_pretrained(folder)`"
        )
    options: dict[str, Any] = {"local_files_only": folder is not None, "trust_remote_code": False}
    if folder is None:
        options["revision"] = params.revision
    source = params.name if folder is None else str(folder)
    try:
        config = AutoConfig.from_pretrained(source, **options)
        if not hasattr(config, "vision_config") or not hasattr(config, "text_config"):
            raise InputError(
                f"model '{params.name}' is a {config.model_type}, no dual encoder of images and "
                "texts; choose a CLIPModel or a VisionTextDualEncoderModel"
            )
        form = image_format_of(params.name, preprocessing_of(source, options), config.vision_config)
        model, info = AutoModel.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except InputError:
        raise
    except Exception as error:  # a broken folder fails in a dozen ways
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"model '{params.name}': the dual encoder cannot be read ({reason}); check name, "
            "network and folder"
        ) from None
    lacking = [part for part in PARTS if not hasattr(model, part)]
    if lacking:
        raise InputError(
            f"model '{params.name}' is a {model.config.model_type}, which has no {lacking[0]}; "
            "choose a CLIPModel or a VisionTextDualEncoderModel"
        )
    limit = positions(model.text_model)
    if limit and params.max_length > limit:
        raise InputError(
            f"model.max_length {params.max_length} is beyond the {limit} positions of the text "
            f"tower of model '{params.name}'; lower it"
        )
    absent = sorted(
        key
        for key in {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
        if not key.endswith(("num_batches_tracked", "position_ids"))
    )
    if absent:
        raise InputError(
            f"model '{params.name}': the weights file lacks {absent[0]}, or has it in another "
            "size; it belongs to another model"
        )
    return PairBundle(model.eval(), tokenizer, form)


def is_dual_encoder(folder: Path) -> bool:
    """Whether ``folder`` holds what ``save_dual_encoder`` writes: a tokenizer besides."""
    return (folder / PREPROCESSING).is_file() and (folder / "tokenizer.json").is_file()


def save_dual_encoder(bundle: PairBundle, folder: Path) -> None:
    """Write ``load_dual_encoder``'s folder, which transformers itself reads likewise.

    One with a tower of ours, only after ``image_models.register``.
    """
    bundle.model.save_pretrained(folder)
    bundle.tokenizer.save_pretrained(folder)
    (folder / PREPROCESSING).write_text(
        json.dumps(preprocessing(bundle.image_format), indent=2), encoding="utf-8"
    )
