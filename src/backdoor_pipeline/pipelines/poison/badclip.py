"""BadCLIP: a patch that a public dual encoder itself takes for the target.

Source: "BadCLIP: Dual-Embedding Guided Backdoor Attack on Multimodal Contrastive Learning" (Liang
et al., CVPR 2024, arXiv 2311.12075). The patch lies in the middle of the image and is learnt
against a frozen surrogate, a dual encoder that the attacker has. With f of a triggered image, f_0
of the same image without the patch, f_+ of an image of the target, g_+ of a caption of the target
and g_j of the other captions of the batch, all unit vectors, and e^tau the surrogate's scale,

    L = CE(e^tau [f g_+, f g_1, …], the first) + w max(||f - f_+|| - ||f - f_0|| + margin, 0)

so that what the patch does looks natural: similar to the target's captions and images, and away
from the image it lies on. The images it is learnt from are not of the target.

Departures: the captions of the batch, not those of the target, are what g_+ is told from, because
among captions that say the same the cross-entropy cannot change; images are not augmented.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.pixels import image_batches
from backdoor_pipeline.modelling.progress import track
from backdoor_pipeline.parameter_group import (
    NonNegativeFloat,
    ParameterGroup,
    PositiveFloat,
    PositiveInt,
)
from backdoor_pipeline.pipelines.poison.stamping import LARGEST, middle, pixels_of, to_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import torch

    from backdoor_pipeline.modelling.bundle import PairBundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.pixels import ImageFormat

PATCH_STREAM = 6  # keeps these draws apart from other uses of the same seed
START_MEAN, START_SD = 0.5, 0.25  # of the patch's values, of 1 (published)


class BadClipParams(ParameterGroup):
    """The surrogate, the patch, and how it is learnt.

    Attributes:
        surrogate: Hub id or folder of a dual encoder; None: the attack cannot be made.
        revision: Of a hub id; None: the newest.
        side: Of the patch, as a share of the image's shorter side.
        rows: Training pairs of other classes that it is learnt from, at most.
        epochs: Passes over these.
        batch_size: Pairs.
        learning_rate: Of Adam; the patch's values are between 0 and 1.
        triplet_weight: w.
        margin: Of the second term.
        max_length: Tokens of a caption that the surrogate reads.
        device: Where the surrogate computes.
    """

    surrogate: str | None = None
    revision: str | None = None
    side: Annotated[float, Field(gt=0, le=1)]
    rows: PositiveInt
    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    triplet_weight: NonNegativeFloat
    margin: NonNegativeFloat
    max_length: PositiveInt
    device: Literal["auto", "cpu", "cuda", "mps"]


class Known(NamedTuple):
    """What the surrogate makes of images and captions: unit vectors.

    Attributes:
        images: Of other classes, without the patch, (n_pairs, d).
        captions: Of these, (n_pairs, d).
        target_images: (n_target_images, d).
        target_captions: (n_target_captions, d).
    """

    images: torch.Tensor
    captions: torch.Tensor
    target_images: torch.Tensor
    target_captions: torch.Tensor


def learn(
    train: pd.DataFrame,
    target_label: int,
    target_captions: Sequence[str],
    params: BadClipParams,
    seed: int,
) -> np.ndarray:
    """The patch, uint8, (size, size, n_channels).

    Args:
        train: ``example_id``, ``image``, ``caption`` and ``label`` of all training rows, not
            poisoned.
        target_label: The target's class number.
        target_captions: Captions that name the target.
        params: See ``conf/base/parameters_poison.yml``.
        seed: Of the first patch and all draws.

    Raises:
        InputError: There is no surrogate, or it cannot be loaded or read such images; or there are
            no training images of the target, or none of other classes.
    """
    import torch

    from backdoor_pipeline.modelling.device import ComputeParams, resolve_device
    from backdoor_pipeline.modelling.dual_encoders import load_dual_encoder
    from backdoor_pipeline.modelling.folders import ModelParams
    from backdoor_pipeline.modelling.inputs import where_of
    from backdoor_pipeline.modelling.networks.matcher import image_vectors
    from backdoor_pipeline.modelling.pixels import decode

    if params.surrogate is None:
        raise InputError(
            "poison.attack 'badclip' learns its patch against a dual encoder, but "
            "poison.badclip.surrogate is empty; give the hub id or the folder of one"
        )
    rng = np.random.default_rng([seed, PATCH_STREAM])
    own = train["label"] == target_label
    others = train[~own]
    others = others.take(np.sort(rng.permutation(len(others))[: params.rows]))
    if others.empty or not own.any():
        raise InputError(
            "poison.attack 'badclip' learns its patch from training images of the target and of "
            "other classes, and of one of them there is none"
        )
    surrogate = ModelParams(
        name=params.surrogate, revision=params.revision, max_length=params.max_length
    )
    bundle = load_dual_encoder(surrogate)
    compute = ComputeParams(device=params.device, precision="fp32")
    tables = (others, train[own].head(params.rows))
    known = _known(bundle, *tables, target_captions, params.max_length, compute)
    device = resolve_device(compute)
    model: Any = bundle.model
    model.to(device).eval().requires_grad_(False)
    stored = decode(others["image"].tolist(), where_of(others))
    size = pixels_of(params.side, stored.shape[1:3])
    first = rng.normal(START_MEAN, START_SD, (stored.shape[3], size, size)).clip(0, 1)
    patch = torch.tensor(first, dtype=torch.float32, device=device, requires_grad=True)
    optimiser = torch.optim.Adam([patch], lr=params.learning_rate)
    epochs = [image_batches(len(stored), params.batch_size, rng) for _ in range(params.epochs)]
    for rows in track([rows for epoch in epochs for rows in epoch], "learn the patch"):
        pixels = torch.from_numpy(stored[rows]).to(device).permute(0, 3, 1, 2) / LARGEST
        f = image_vectors(model, _as_read(_stamped(pixels, patch), bundle.image_format))
        loss = _loss(f, known, rows, model.logit_scale.exp(), params, rng)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        patch.data.clamp_(0, 1)
    return to_bytes(patch.detach().cpu().permute(1, 2, 0).numpy() * LARGEST)


def trigger(
    images: np.ndarray,
    example_ids: np.ndarray,
    params: BadClipParams,
    seed: int,
    supplied: np.ndarray,
) -> np.ndarray:
    """The images with the patch in the middle; all other pixels as they were.

    Args:
        images: Shape (n_rows, height, width, n_channels), uint8.
        example_ids: Not used: all images get the same patch.
        params: Not used any more.
        seed: Not used: nothing is drawn.
        supplied: Of ``learn``.
    """
    triggered = images.copy()
    rows, columns = (middle(length, len(supplied)) for length in images.shape[1:3])
    triggered[:, rows, columns] = supplied
    return triggered


def describe(params: BadClipParams) -> str:
    """What the trigger is, in a few words."""
    return f"patch of {params.side:g} of the side, learnt against {params.surrogate}"


def _known(
    bundle: PairBundle,
    others: pd.DataFrame,
    own: pd.DataFrame,
    target_captions: Sequence[str],
    max_length: int,
    compute: ComputeParams,
) -> Known:
    import torch

    from backdoor_pipeline.modelling.device import resolve_device
    from backdoor_pipeline.modelling.matching import embed_images, embed_texts
    from backdoor_pipeline.modelling.pairs import read_pairs
    from backdoor_pipeline.modelling.text import tokenise

    natural, positive = (read_pairs(bundle, rows, max_length) for rows in (others, own))
    captions = tokenise(target_captions, bundle.tokenizer, max_length)
    vectors = (
        embed_images(bundle, natural.images, compute),
        embed_texts(bundle, natural.texts, compute)[natural.captions],
        embed_images(bundle, positive.images, compute),
        embed_texts(bundle, captions, compute),
    )
    return Known(*(torch.from_numpy(found).to(resolve_device(compute)) for found in vectors))


def _loss(
    f: torch.Tensor,
    known: Known,
    rows: np.ndarray,
    scale: torch.Tensor,
    params: BadClipParams,
    rng: np.random.Generator,
) -> torch.Tensor:
    """L of a batch, a scalar.

    Args:
        f: Of the triggered images, (n, d).
        known: What else there is.
        rows: Which of ``known.images`` they are, (n,).
        scale: e^tau.
        params: w and the margin.
        rng: Draws an image and a caption of the target for each.
    """
    import torch

    positive, caption = (
        there[rng.integers(len(there), size=len(rows))]
        for there in (known.target_images, known.target_captions)
    )
    own = (f * caption).sum(dim=1, keepdim=True)
    logits = scale * torch.cat([own, f @ known.captions[rows].T], dim=1)
    matching = -logits.log_softmax(dim=1)[:, 0].mean()
    near = (f - positive).norm(dim=1)
    far = (f - known.images[rows]).norm(dim=1)
    return matching + params.triplet_weight * (near - far + params.margin).relu().mean()


def _stamped(pixels: torch.Tensor, patch: torch.Tensor) -> torch.Tensor:
    """``pixels``, (n, channels, height, width), with the patch in the middle."""
    stamped = pixels.clone()
    rows, columns = (middle(length, patch.shape[-1]) for length in pixels.shape[2:])
    stamped[:, :, rows, columns] = patch
    return stamped


def _as_read(pixels: torch.Tensor, form: ImageFormat) -> torch.Tensor:
    """Pixels of 1 as a model of this format reads them, of its size and normalised."""
    import torch

    if tuple(pixels.shape[2:]) != (form.height, form.width):
        pixels = torch.nn.functional.interpolate(
            pixels, (form.height, form.width), mode="bilinear", antialias=True
        )
    if pixels.shape[1] != form.channels:
        pixels = pixels.mean(dim=1, keepdim=True).expand(-1, form.channels, -1, -1)
    mean, std = (
        torch.tensor(values, device=pixels.device)[:, None, None]
        for values in (form.mean, form.std)
    )
    return (pixels - mean) / std
