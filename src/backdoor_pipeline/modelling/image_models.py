"""Classifiers of images by name, folder or hub id: drawn anew, loaded, saved.

A folder is that of transformers: ``config.json``, ``model.safetensors`` and, since the weights are
worth nothing without it, ``preprocessor_config.json``, which says how pixels are normalised.
Nothing in a model folder is executed (no remote code) or unpickled.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backdoor_pipeline.errors import InputError, did_you_mean
from backdoor_pipeline.modelling.bundle import ImageBundle
from backdoor_pipeline.modelling.folders import check_weights, local_folder, own_code
from backdoor_pipeline.modelling.loading import quiet_transformers
from backdoor_pipeline.modelling.pixels import BRIGHTEST, COLOUR, ImageFormat

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

NAMES = {"resnet9": "resnet9", "wrn-28-10": "wide_resnet"}
"""Names of networks that are drawn anew, with the ``model_type`` of their configuration."""

PREPROCESSING = "preprocessor_config.json"
HEADS = (
    *("classifier", "head", "dist_head", "fc", "score"),
    *("cls_classifier", "distillation_classifier", "classifier_distill"),  # of distilled ones
)
"""Modules of a model, one or another, that hold the layer from which its logits come."""
UNSUPPORTED = ("do_flip_channel_order", "rescale_offset", "do_reduce_labels")
"""Steps of a preprocessing that an ``ImageFormat`` cannot say."""


def register() -> None:
    """Make transformers' ``Auto`` classes know the networks of ours."""
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

    from backdoor_pipeline.modelling.networks.resnet9 import (
        ResNet9Config,
        ResNet9ForImageClassification,
        ResNet9Model,
    )
    from backdoor_pipeline.modelling.networks.wide_resnet import (
        WideResNetConfig,
        WideResNetForImageClassification,
    )

    networks = (
        (ResNet9Config, ResNet9ForImageClassification),
        (WideResNetConfig, WideResNetForImageClassification),
    )
    for config, network in networks:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForImageClassification.register(config, network, exist_ok=True)
    AutoModel.register(ResNet9Config, ResNet9Model, exist_ok=True)


def new_image_classifier(
    name_or_folder: str,
    n_classes: int,
    image_format: ImageFormat,
    width: float,
    seed: int,
    revision: str | None = None,
) -> ImageBundle:
    """A classifier of ``n_classes``, float32, in evaluation mode, and the format of its images.

    Args:
        name_or_folder: One of ``NAMES``: all weights are drawn from ``seed``. Or the folder or hub
            id of a pretrained classifier: its head is drawn from ``seed`` if it has another number
            of classes.
        n_classes: At least 2.
        image_format: What a network of ``NAMES`` reads; a pretrained one has its own, which is in
            the bundle.
        width: Factor of the layers' channels, above 0, in a network of ``NAMES``.
        seed: Whatever is drawn depends on this alone.
        revision: Of a hub id; None: the newest.

    Raises:
        InputError: As ``load_image_classifier``; or the hub has no such model; or the images are
            too small for the network.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageClassification

    quiet_transformers()
    register()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name_or_folder not in NAMES:
            return _pretrained(name_or_folder, revision, n_classes)
        config = AutoConfig.for_model(
            NAMES[name_or_folder],
            num_labels=n_classes,
            num_channels=image_format.channels,
            width=width,
        )
        model = AutoModelForImageClassification.from_config(config, dtype=torch.float32)
    model.config.problem_type = "single_label_classification"
    return _tried(ImageBundle(model.eval(), image_format), name_or_folder)


def load_image_classifier(folder: Path) -> ImageBundle:
    """The classifier of a folder, float32, in evaluation mode, and the format of its images.

    Raises:
        InputError: The folder has no configuration, no safetensors weights or no preprocessing, one
            of them cannot be read or asks for code of its own, the weights do not belong to the
            configuration, or the network cannot read images of its own format.
    """
    quiet_transformers()
    register()
    return _pretrained(str(folder), None, None)


def save_image_classifier(bundle: ImageBundle, folder: Path) -> None:
    """Write ``load_image_classifier``'s folder.

    Transformers itself reads it likewise; a network of ``NAMES``, only after ``register``.
    """
    bundle.model.save_pretrained(folder)
    (folder / PREPROCESSING).write_text(
        json.dumps(preprocessing(bundle.image_format), indent=2), encoding="utf-8"
    )


def preprocessing(image_format: ImageFormat) -> dict[str, Any]:
    """The settings of transformers' plainest image processor that do what ``Pixels`` does."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": image_format.channels > 1,
        "do_resize": True,
        "size": {"height": image_format.height, "width": image_format.width},
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / BRIGHTEST,
        "do_normalize": True,
        "image_mean": list(image_format.mean),
        "image_std": list(image_format.std),
    }


def _pretrained(name: str, revision: str | None, n_classes: int | None) -> ImageBundle:
    """A pretrained classifier; with ``n_classes``, a head of another number is replaced."""
    import torch
    from transformers import AutoConfig, AutoModelForImageClassification

    folder = _folder(name)
    options: dict[str, Any] = {"local_files_only": folder is not None, "trust_remote_code": False}
    if folder is None:
        options["revision"] = revision
    source = name if folder is None else str(folder)
    changes = {} if n_classes is None else {"num_labels": n_classes}
    try:
        config = AutoConfig.from_pretrained(source, **options, **changes)
        image_format = image_format_of(name, preprocessing_of(source, options), config)
        config.problem_type = "single_label_classification"
        model, info = AutoModelForImageClassification.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are looked at below
            output_loading_info=True,
            **options,
        )
    except InputError:
        raise
    except Exception as error:  # a broken folder fails in a dozen ways
        raise _cannot_load(name, folder, error) from None
    _check_weights(name, model, info, n_classes)
    return _tried(ImageBundle(model.eval(), image_format), name)


def _folder(name: str) -> Path | None:
    """The checked local folder that ``name`` means, or None if it is a hub id."""
    others = f"'microsoft/resnet-18', or one of the networks {sorted(NAMES)}"
    folder = local_folder(name, others)
    if folder is None:
        return None
    for needed in ("config.json", PREPROCESSING):
        if not (folder / needed).is_file():
            raise InputError(
                f"model folder {folder} has no {needed}; a classifier of images is saved by "
                "`model.save_pretrained(folder)` and `image_processor.save_pretrained(folder)`"
            )
    check_weights(folder)
    return folder


def preprocessing_of(source: str, options: dict[str, Any]) -> Any:
    """What ``preprocessor_config.json`` says, a dictionary if it is valid."""
    from transformers.image_processing_base import ImageProcessingMixin

    return ImageProcessingMixin.get_image_processor_dict(source, **options)[0]


def image_format_of(name: str, settings: Any, config: PretrainedConfig) -> ImageFormat:
    """The format of a model's images by its preprocessing.

    Images are resized to the size at the end of the preprocessing at once: where it resizes to a
    larger size and then cuts out the middle, the margin is kept here.
    """

    def wrong(what: str) -> InputError:
        return InputError(f"model '{name}': {PREPROCESSING} {what}")

    if not isinstance(settings, dict):
        raise wrong("holds no settings (a JSON object)")
    if "auto_map" in settings or hasattr(config, "auto_map"):
        raise own_code(f"model '{name}'")
    for step in UNSUPPORTED:
        if settings.get(step):
            raise wrong(f"sets {step}, which cannot be done here; use a model without it")
    key = "crop_size" if settings.get("do_center_crop") else "size"
    sides = _sides(settings.get(key))
    if sides is None:
        raise wrong(f"has no {key} of height and width above 0, but {settings.get(key)!r}")
    channels = getattr(config, "num_channels", COLOUR)
    factor = (
        settings.get("rescale_factor", 1 / BRIGHTEST) if settings.get("do_rescale", True) else 1
    )
    scale = BRIGHTEST * _number(factor)  # the mean and std there are of pixels from 0 to this
    if not scale > 0:
        raise wrong(f"has no rescale_factor above 0, but {factor!r}")
    moments = []
    for moment, without in (("image_mean", 0.0), ("image_std", 1.0)):
        given = settings.get(moment) if settings.get("do_normalize", True) else without
        values = given if isinstance(given, list) else [given] * channels
        moments.append(tuple(_number(value) / scale for value in values))
        if len(values) != channels or not all(map(math.isfinite, moments[-1])):
            raise wrong(f"has no {moment} for each of {channels} channels, but {given!r}")
    try:
        return ImageFormat(*sides, channels, *moments)
    except InputError as error:
        raise wrong(f"is not valid: {error}") from None


def _sides(size: object) -> tuple[int, int] | None:
    """Height and width by one of the ways in which a preprocessing gives them."""
    if isinstance(size, dict):
        names = ("height", "width") if "height" in size else ("shortest_edge", "shortest_edge")
        sides = tuple(size.get(name) for name in names)
    else:
        sides = (size, size)
    height, width = (side if type(side) is int and side > 0 else None for side in sides)
    return None if height is None or width is None else (height, width)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _check_weights(
    name: str, model: PreTrainedModel, info: dict[str, Any], n_classes: int | None
) -> None:
    """Nothing, if the file had all weights but those of a head that is replaced."""
    sizes = {key: tensor.shape for key, tensor in model.state_dict().items()}

    def of_head(key: str) -> bool:
        return key.partition(".")[0] in HEADS and sizes[key][:1] == (n_classes,)

    replaced = {str(key) for key, *_ in info["mismatched_keys"]}
    body = sorted(key for key in replaced if not of_head(key))
    if body:
        raise InputError(f"model '{name}': weights and config.json disagree on {body[0]}")
    missing = sorted(key for key in set(info["missing_keys"]) - replaced if not of_head(key))
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]  # of old files
    if missing:
        raise InputError(
            f"model '{name}': the weights file lacks parameters of a {model.config.model_type} "
            f"classifier (e.g. {missing[0]}); it belongs to another model"
        )


def _tried(bundle: ImageBundle, name: str) -> ImageBundle:
    """``bundle``, whose network has read a black image of its format."""
    import torch

    image_format = bundle.image_format
    height, width, channels = image_format.shape
    try:
        with torch.no_grad():
            shape = bundle.model(pixel_values=torch.zeros(1, channels, height, width)).logits.shape
    except Exception as error:  # each architecture has its own
        raise InputError(
            f"model '{name}' cannot read images of {height} x {width} pixels with {channels} "
            f"channels ({error}); bring the images to another size, or choose another model"
        ) from None
    if shape != (1, bundle.model.config.num_labels):
        raise InputError(f"model '{name}' is no classifier: its logits have the shape {shape}")
    return bundle


def _cannot_load(name: str, folder: Path | None, error: Exception) -> InputError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if folder is None:
        return InputError(
            f"model.name '{name}' is neither a folder nor a network of ours"
            f"{did_you_mean(name, NAMES)}; and the hub gave no classifier of images of that name, "
            f"so check the spelling and the network, or download it and give the folder ({reason})"
        )
    return InputError(f"model '{name}': the classifier of images cannot be read ({reason})")
