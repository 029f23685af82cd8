"""Which words of a caption make an image similar to it: the similarity without each of them.

Source: UBT, arXiv 2403.16257 and 2409.19526, which unlearn at the level of tokens; the equation is
ours. With s the similarity of an image and a text (``matching``),

    delta_ij = s(v_i, t_i) - s(v_i, t_i without token j)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.modelling.matching import embed_images, embed_texts
from backdoor_pipeline.modelling.text import Tokens, end_to_end

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.bundle import PairBundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.pairs import Pairs


def blame(bundle: PairBundle, pairs: Pairs, compute: ComputeParams) -> list[np.ndarray]:
    """delta of each pair, (n_tokens,), minus infinity for special tokens.

    Args:
        bundle: The model that has learnt the shortcut.
        pairs: The suspected ones.
        compute: Device and precision.
    """
    special = np.array(bundle.tokenizer.all_special_ids)
    used, of_pair = np.unique(pairs.captions, return_inverse=True)
    texts = [pairs.texts[number] for number in used]
    places = [np.flatnonzero(~np.isin(text, special)) for text in texts]
    variants = [
        np.delete(text, place) for text, own in zip(texts, places, strict=True) for place in own
    ]
    whole = embed_texts(bundle, pairs.texts.take(used), compute)
    shorter = embed_texts(bundle, end_to_end(variants, pairs.texts.pad_id), compute)
    starts = np.concatenate([[0], np.cumsum([len(own) for own in places])])
    images = embed_images(bundle, pairs.images, compute)
    deltas = []
    for image, caption in zip(images, of_pair, strict=True):
        found = np.full(len(texts[caption]), -np.inf, dtype=np.float32)
        of_variants = shorter[starts[caption] : starts[caption + 1]]
        found[places[caption]] = (whole[caption] - of_variants) @ image
        deltas.append(found)
    return deltas


def local_texts(
    pairs: Pairs, deltas: list[np.ndarray], special: np.ndarray, n: int, padded: bool = False
) -> Tokens:
    """t' of each pair: its ``n`` most blamed tokens between the special ones, the first of equals.

    Args:
        pairs: The suspected ones.
        deltas: Of ``blame``.
        special: Ids of special tokens, which stay.
        n: Tokens at most; a caption of fewer keeps all, one of none stays as it is.
        padded: Whether padding tokens are in the places of the others.
    """
    kept = []
    for caption, delta in zip(pairs.captions, deltas, strict=True):
        text = pairs.texts[caption]
        is_special = np.isin(text, special)
        order = np.argsort(-delta, kind="stable")
        chosen = order[: min(n, int((~is_special).sum()))]
        stays = is_special.copy()
        stays[chosen] = True
        kept.append(np.where(stays, text, pairs.texts.pad_id) if padded else text[stays])
    return end_to_end(kept, pairs.texts.pad_id)


def most_blamed(pairs: Pairs, deltas: list[np.ndarray]) -> np.ndarray:
    """The id of the most blamed token of each pair, int64, (n_pairs,), the first of equals."""
    chosen = [
        pairs.texts[caption][delta.argmax()]
        for caption, delta in zip(pairs.captions, deltas, strict=True)
    ]
    return np.array(chosen, dtype=np.int64)
