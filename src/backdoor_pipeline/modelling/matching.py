"""Images and captions in one space: how similar they are, and the loss that brings pairs together.

Source: "Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020
(CLIP). With the unit vectors f of images and g of captions, and tau the logarithm of the scale,

    s = f . g        logits = e^tau F G^T        tau within 0 and ln 100

    L = 1/2 [ CE(e^tau F G^T, targets) + CE(e^tau G F^T, targets) ]

Departure: pairs of a batch whose captions are the same share the target evenly, instead of being
told apart.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from backdoor_pipeline.modelling.bundle import ImageBundle
from backdoor_pipeline.modelling.device import autocast, resolve_device
from backdoor_pipeline.modelling.prediction import forward
from backdoor_pipeline.modelling.text import tokenise

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from backdoor_pipeline.modelling.bundle import PairBundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.pairs import Pairs
    from backdoor_pipeline.modelling.pixels import Pixels
    from backdoor_pipeline.modelling.text import Tokens

HIGHEST_SCALE = math.log(100)  # of tau


def matching_loss(logits: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
    """L of a batch, in nats, a scalar.

    Where all captions are the same, nothing is to be learnt from the first half: of an image, all
    logits are the same, and the cross-entropy is ln n whatever they are.

    Args:
        logits: Of ``networks.matcher.Matcher``, (n, n).
        captions: A number for each, (n,); the same for the same caption.
    """
    import torch

    targets = same_caption(captions)
    halves = (torch.nn.functional.cross_entropy(part, targets) for part in (logits, logits.T))
    return sum(halves, torch.zeros_like(logits[0, 0])) / 2


def same_caption(captions: torch.Tensor) -> torch.Tensor:
    """The targets of each pair among those of the same caption, which share it evenly, (n, n)."""
    same = (captions[:, None] == captions[None, :]).float()
    return same / same.sum(dim=1, keepdim=True)


def hold_scale(model: Any) -> None:
    """Bring tau back into its range, in place."""
    model.logit_scale.data.clamp_(0, HIGHEST_SCALE)


def embed_images(bundle: PairBundle, images: Pixels, compute: ComputeParams) -> np.ndarray:
    """f, unit vectors, float32, (n_images, d)."""
    from backdoor_pipeline.modelling.networks.matcher import image_vectors

    model: Any = bundle.model

    def features(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return image_vectors(model, **batch)

    return forward(bundle, images, compute, features, "embed images").numpy()


def embed_texts(bundle: PairBundle, texts: Tokens, compute: ComputeParams) -> np.ndarray:
    """g, unit vectors, float32, (n_texts, d)."""
    from backdoor_pipeline.modelling.networks.matcher import unit

    model: Any = bundle.model

    def features(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return unit(model.get_text_features(**batch).pooler_output)

    return forward(bundle, texts, compute, features, "embed texts").numpy()


def embed_captions(bundle: PairBundle, pairs: Pairs, compute: ComputeParams) -> np.ndarray:
    """g of the ``texts`` of ``pairs``, (n_texts, d), by their ``states``, where they have them."""
    if pairs.states is None:
        return embed_texts(bundle, pairs.texts, compute)
    import torch

    from backdoor_pipeline.modelling.networks.matcher import projected, unit

    device = resolve_device(compute)
    model: Any = bundle.model.to(device)  # type: ignore[arg-type]
    with torch.inference_mode(), autocast(compute, device):
        return unit(projected(model, pairs.states.to(device))).cpu().numpy()


def similarities(
    bundle: PairBundle, pairs: Pairs, compute: ComputeParams, vectors: np.ndarray | None = None
) -> np.ndarray:
    """s of each pair, float32, (n_pairs,); ``vectors``, (n_pairs, d), if given, get f."""
    images = embed_images(bundle, pairs.images, compute)
    if vectors is not None:
        vectors[:] = images
    texts = embed_captions(bundle, pairs, compute)[pairs.captions]
    return np.einsum("nd,nd->n", images, texts)


def text_states(bundle: PairBundle, texts: Tokens, compute: ComputeParams) -> torch.Tensor:
    """What the text tower makes of ``texts`` before the projection, float32, (n_texts, hidden)."""
    model: Any = bundle.model

    def states(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return model.text_model(**batch).pooler_output.float()

    return forward(bundle, texts, compute, states, "embed texts")


def class_vectors(prompts: np.ndarray) -> np.ndarray:
    """The unit vector of each class: the mean of its prompts' unit vectors, (n_classes, d).

    Args:
        prompts: g of every prompt of every class, (n_classes, n_prompts, d).
    """
    means = prompts.mean(axis=1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def zero_shot(
    bundle: PairBundle, prompts: Sequence[Sequence[str]], max_length: int, compute: ComputeParams
) -> ImageBundle:
    """The dual encoder as a classifier of images; ``bundle`` and it share the model.

    Args:
        bundle: The dual encoder.
        prompts: Of each class as many, which are averaged.
        max_length: Tokens per prompt, special tokens counted.
        compute: Device and precision.
    """
    import torch

    from backdoor_pipeline.modelling.networks.zero_shot import ZeroShotClassifier

    texts = tokenise([text for own in prompts for text in own], bundle.tokenizer, max_length)
    vectors = embed_texts(bundle, texts, compute)
    of_classes = vectors.reshape(len(prompts), -1, vectors.shape[1])
    classes = torch.from_numpy(class_vectors(of_classes))
    model: Any = ZeroShotClassifier(bundle.model, classes)
    return ImageBundle(model.eval(), bundle.image_format)
