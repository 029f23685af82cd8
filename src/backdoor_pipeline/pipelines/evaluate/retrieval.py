"""How often a caption finds an image of its own, and an image its caption, among the first k."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.intervals import Rate, rate
from backdoor_pipeline.modelling.matching import embed_images, embed_texts

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.bundle import PairBundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.pairs import Pairs

FIRST = (1, 5)  # k
BLOCK = 1024  # queries whose similarities to all others are held at a time


def rates_of(bundle: PairBundle, pairs: Pairs, compute: ComputeParams) -> dict[str, float]:
    """Both rates of a model, at each of ``FIRST``, with intervals.

    Args:
        bundle: The dual encoder.
        pairs: Among which is looked.
        compute: Device and precision.
    """
    images = embed_images(bundle, pairs.images, compute)
    used, captions = np.unique(pairs.captions, return_inverse=True)
    texts = embed_texts(bundle, pairs.texts.take(used), compute)
    found: dict[str, float] = {}
    for name, function in (("image_to_text", image_to_text), ("text_to_image", text_to_image)):
        for k in FIRST:
            found |= function(images, texts, captions, k).named(f"{name}_recall_at_{k}")
    return found


def image_to_text(images: np.ndarray, texts: np.ndarray, captions: np.ndarray, k: int) -> Rate:
    """The share of images whose caption is among the ``k`` texts most similar to it.

    Ties count against: a text as similar as the caption comes before it.

    Args:
        images: Unit vectors, (n_images, d).
        texts: Of the captions, each once, (n_texts, d).
        captions: Which text is each image's, (n_images,).
        k: At least 1.

    Raises:
        ValueError: There is nothing to look for.
    """
    hits = []
    for start in range(0, len(images), BLOCK):
        similar = images[start : start + BLOCK] @ texts.T
        own = similar[np.arange(len(similar)), captions[start : start + BLOCK]]
        hits.append((similar >= own[:, None]).sum(axis=1) <= k)
    return rate(np.concatenate(hits or [np.empty(0)]))


def text_to_image(images: np.ndarray, texts: np.ndarray, captions: np.ndarray, k: int) -> Rate:
    """The share of texts for which an image of theirs is among the ``k`` most similar to them.

    Ties count against: an image of another caption comes before one that is as similar.

    Args:
        images: Unit vectors, (n_images, d).
        texts: Of the captions, each once, each of an image at least, (n_texts, d).
        captions: Which text is each image's, (n_images,).
        k: At least 1.

    Raises:
        ValueError: There is nothing to look for.
    """
    hits = []
    for start in range(0, len(texts), BLOCK):
        similar = texts[start : start + BLOCK] @ images.T
        is_own = captions[None, :] == np.arange(start, start + len(similar))[:, None]
        best = np.where(is_own, similar, -np.inf).max(axis=1)
        before = (~is_own & (similar >= best[:, None])).sum(axis=1)
        hits.append(before < k)
    return rate(np.concatenate(hits or [np.empty(0)]))
