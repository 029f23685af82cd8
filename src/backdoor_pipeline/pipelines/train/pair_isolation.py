"""Anti-backdoor learning of pairs: those that are learnt first are isolated, then unlearnt.

Source: ABL, arXiv 2110.11571 (see ``anti_backdoor``), as it is compared with on dual encoders; the
adaptation is ours. After the first epochs the share of the pairs with the lowest loss is isolated;
the others are learnt; then the loss of the isolated pairs is ascended, that of as many others
descended, up to a ceiling. The loss of a pair is the mean of both halves of ``modelling.matching``,
in batches drawn once, less what it is at least: ln k, where k pairs of the batch have its caption.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from backdoor_pipeline.modelling.contrastive import fit_matcher, fit_pairs
from backdoor_pipeline.modelling.matching import embed_images, embed_texts, same_caption
from backdoor_pipeline.parameter_group import Count, ParameterGroup, PositiveFloat, PositiveInt
from backdoor_pipeline.pipelines.train.anti_backdoor import joined, lowest

if TYPE_CHECKING:
    import torch

    from backdoor_pipeline.modelling.bundle import PairBundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.pairs import Pairs
    from backdoor_pipeline.modelling.training import History, OptimisationParams


class PairIsolationParams(ParameterGroup):
    """How pairs are isolated, and how they are unlearnt; the ceiling is in nats."""

    isolation_epochs: PositiveInt
    isolation_share: Annotated[float, Field(ge=0, lt=1)]
    ascent_epochs: Count
    ascent_learning_rate: PositiveFloat
    ascent_ceiling: PositiveFloat


def train(
    bundle: PairBundle,
    pairs: Pairs,
    params: PairIsolationParams,
    optimisation: OptimisationParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[History, np.ndarray]:
    """Train the dual encoder in place, in three stages; its loss, and which pairs were isolated.

    Args:
        bundle: The dual encoder.
        pairs: All of them; which are poisoned is not known.
        params: Of the isolation and of the ascent.
        optimisation: Of the second stage; the first differs in its epochs, the last in its epochs
            and learning rate.
        compute: Device and precision.
        seed: Draws the batches and the others of the last stage.

    Returns:
        The history of the three stages, end to end, and numbers of pairs, ascending, int64.

    Raises:
        InputError: The training diverged.
    """
    from backdoor_pipeline.modelling.networks.matcher import Matcher

    first = optimisation.model_copy(update={"epochs": params.isolation_epochs})
    history = fit_pairs(bundle, pairs, first, compute, seed, "isolate")
    losses = pair_losses(bundle, pairs, optimisation.batch_size, compute, seed)
    isolated, others = lowest(losses, params.isolation_share)
    rest = fit_pairs(bundle, pairs.take(others), optimisation, compute, seed, "defended")
    history = joined(history, rest)
    if not len(isolated) or not params.ascent_epochs:
        return history, isolated
    rng = np.random.default_rng(seed)
    benign = rng.choice(others, min(len(isolated), len(others)), replace=False)
    chosen = pairs.take(np.concatenate([isolated, benign]))
    n_captions = len(pairs.texts)
    labels = chosen.captions + n_captions * (np.arange(len(chosen)) >= len(isolated))
    last = {"epochs": params.ascent_epochs, "learning_rate": params.ascent_learning_rate}
    ascent = optimisation.model_copy(update=last)

    def loss(logits: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return ascent_loss(logits, given, n_captions, params.ascent_ceiling)

    settings = (ascent, compute, seed, "unlearn", pairs.states is not None, loss)
    unlearnt = fit_matcher(bundle, Matcher(bundle.model), chosen, labels, *settings)
    return joined(history, unlearnt), isolated


def ascent_loss(
    logits: torch.Tensor, labels: torch.Tensor, n_captions: int, ceiling: float
) -> torch.Tensor:
    """The mean loss of others, less that of isolated pairs where it is below the ceiling.

    Args:
        logits: Of ``networks.matcher.Matcher``, (n, n).
        labels: The caption's number, of others ``n_captions`` more, (n,).
        n_captions: How many there are.
        ceiling: In nats.
    """
    losses = row_losses(logits, labels % n_captions)
    isolated = labels < n_captions
    ascended = losses[isolated].clamp(max=ceiling)
    return (losses[~isolated].sum() - ascended.sum()) / len(losses)


def row_losses(logits: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
    """The loss of each pair among those of a batch, in nats, (n,)."""
    from torch.nn.functional import cross_entropy

    targets = same_caption(captions)
    halves = [cross_entropy(part, targets, reduction="none") for part in (logits, logits.T)]
    return (halves[0] + halves[1]) / 2


def pair_losses(
    bundle: PairBundle, pairs: Pairs, batch_size: int, compute: ComputeParams, seed: int
) -> np.ndarray:
    """The loss of each pair in evaluation mode over the least it could be, in nats, (n_pairs,)."""
    import torch

    images = torch.from_numpy(embed_images(bundle, pairs.images.plain(), compute))
    texts = torch.from_numpy(embed_texts(bundle, pairs.texts, compute))
    scale = bundle.model.logit_scale.detach().exp().cpu()  # type: ignore[union-attr, operator]
    losses = np.empty(len(pairs), dtype=np.float32)
    for rows in pairs.batches(batch_size, np.random.default_rng(seed)):
        captions = torch.from_numpy(pairs.captions[rows])
        logits = scale * images[rows] @ texts[captions].T
        least = -same_caption(captions).max(dim=1).values.log()  # ln k
        losses[rows] = (row_losses(logits, captions) - least).numpy()
    return losses
