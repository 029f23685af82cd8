"""A dual encoder trained on with pairs that are known to be clean: plainly, or as CleanCLIP does.

Source: "CleanCLIP: Mitigating Data Poisoning Attacks in Multimodal Contrastive Learning", arXiv
2303.03323. With f, g the unit vectors of images and captions, f', g' those of the same images and
captions changed at random, and tau the logarithm of the scale,

    L = L_match(F, G) + w/2 [ CE(e^tau F F'^T, own) + CE(e^tau G G'^T, own) ]

L_match is that of ``modelling.matching``; w = 0 is plain fine-tuning.

Departures: captions lose words and change their order, without synonyms and insertions; images
change as ``augmentation`` says (published: AutoAugment), by plain fine-tuning as well. Captions
that are the same share the target.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.contrastive import fit_matcher, fit_pairs, pairs_to_train
from backdoor_pipeline.modelling.matching import matching_loss, same_caption
from backdoor_pipeline.modelling.pixels import Augmentation
from backdoor_pipeline.modelling.training import OptimisationParams
from backdoor_pipeline.parameter_group import (
    NonNegativeFloat,
    ParameterGroup,
    PositiveInt,
    Share,
)

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from backdoor_pipeline.modelling.bundle import PairBundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.pairs import Pairs
    from backdoor_pipeline.modelling.pixels import ImageFormat
    from backdoor_pipeline.modelling.training import History


class CleanContrastParams(ParameterGroup):
    """How many pairs, and how they are learnt.

    Attributes:
        rows: Clean pairs, at most; drawn from the dev rows.
        in_modal_weight: w.
        word_share: Of the words of a caption, how many it loses; and how many pairs of neighbours
            change places.
        augmentation: Of the images.
        optimisation: How.
    """

    rows: PositiveInt
    in_modal_weight: NonNegativeFloat
    word_share: Share
    augmentation: Augmentation | None
    optimisation: OptimisationParams


@dataclass(frozen=True)
class TwoViews:
    """Pairs, and the same pairs changed; the ``Inputs`` of a ``networks.matcher.TwoViewMatcher``.

    Attributes:
        pairs: As they are.
        others: Their images and captions, changed.
    """

    pairs: Pairs
    others: Pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def batches(self, batch_size: int, rng: np.random.Generator | None = None) -> list[np.ndarray]:
        """As those of ``Pixels``."""
        return self.pairs.batches(batch_size, rng)

    def collate(self, rows: np.ndarray, device: torch.device) -> dict[str, Any]:
        """What the network takes, for the pairs of these numbers."""
        return {
            "pairs": self.pairs.collate(rows, device),
            "others": self.others.collate(rows, device),
        }


def plan(n_clean: int, format: ImageFormat, params: CleanContrastParams) -> dict[str, int]:
    """How many pairs will be used.

    Args:
        n_clean: Pairs that are known to be clean.
        format: Of the images that the model reads.
        params: As of ``unlearn``.

    Raises:
        InputError: There are none, or images cannot be changed so.
    """
    if not n_clean:
        raise InputError(
            "the dual encoder is to be trained on with dev pairs, but there are none; raise "
            "ingest.dev_share"
        )
    if params.augmentation is not None:
        params.augmentation.check(format)
    return {"rows": min(params.rows, n_clean)}


def unlearn(
    bundle: PairBundle,
    clean: pd.DataFrame,
    params: CleanContrastParams,
    text_tower: str,
    max_length: int,
    compute: ComputeParams,
    seed: int,
) -> tuple[PairBundle, dict[str, Any], History]:
    """A copy of ``bundle``, trained on.

    Args:
        bundle: The victim; unchanged.
        clean: Pairs that are known to be clean, of which ``params.rows`` are drawn.
        params: See ``conf/base/parameters_unlearn.yml``.
        text_tower: "frozen" or "trained".
        max_length: Tokens per caption.
        compute: Device and precision.
        seed: Draws pairs, changes and order.

    Returns:
        The model, ``dev_rows``, which were used, and the loss of each step.

    Raises:
        InputError: The training diverged.
    """
    rows = clean.sample(min(params.rows, len(clean)), random_state=seed)
    result = bundle._replace(model=copy.deepcopy(bundle.model))
    record = {"dev_rows": len(rows)}
    reading = (max_length, text_tower)
    if not params.in_modal_weight:
        pairs = pairs_to_train(result, rows, *reading, params.augmentation, compute)
        return result, record, fit_pairs(result, pairs, params.optimisation, compute, seed, "tune")
    from backdoor_pipeline.modelling.networks.matcher import TwoViewMatcher

    rng = np.random.default_rng(seed)
    pairs = pairs_to_train(result, rows, *reading, None, compute)
    captions = [changed(caption, params.word_share, rng) for caption in rows["caption"]]
    changed_rows = rows.assign(caption=captions)
    others = pairs_to_train(result, changed_rows, *reading, params.augmentation, compute)
    views = TwoViews(pairs, others)

    def loss(logits: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        return two_view_loss(logits, own, params.in_modal_weight)

    matcher = TwoViewMatcher(result.model)
    optimisation = (params.optimisation, compute, seed, "CleanCLIP")
    frozen = pairs.states is not None
    history = fit_matcher(result, matcher, views, pairs.captions, *optimisation, frozen, loss)
    return result, record, history


def two_view_loss(logits: torch.Tensor, captions: torch.Tensor, weight: float) -> torch.Tensor:
    """L of a batch, in nats, a scalar.

    Args:
        logits: F G^T, F F'^T and G G'^T, scaled, (3, n, n).
        captions: A number for each pair, (n,); the same for the same caption.
        weight: w.
    """
    import torch
    from torch.nn.functional import cross_entropy

    matching, images, texts = logits
    own = torch.arange(len(images), device=images.device)
    in_modal = cross_entropy(images, own) + cross_entropy(texts, same_caption(captions))
    return matching_loss(matching, captions) + weight / 2 * in_modal


def changed(caption: str, share: float, rng: np.random.Generator) -> str:
    """The caption without some of its words, and others in another order; one word at least."""
    words = np.array(caption.split(), dtype=object)
    kept = words[rng.random(len(words)) >= share]
    words = kept if len(kept) else words[rng.integers(len(words), size=1)]
    for place in np.flatnonzero(rng.random(max(len(words) - 1, 0)) < share):
        words[[place, place + 1]] = words[[place + 1, place]]
    return " ".join(words)
