"""RoCLIP: in some epochs images are matched to captions that were seen before, not to their own.

Source: "Robust Contrastive Language-Image Pretraining against Data Poisoning and Backdoor Attacks",
arXiv 2303.06854. A bank holds the vectors of the captions seen last, at first random unit vectors.
In every ``every``-th epoch, counted from 1, each image goes with the vector of the bank that is the
nearest to the image's own; other epochs are those of any dual encoder. So a poisoned caption is
hardly ever the partner of its image, and what pairs have in common is learnt all the same.

Departures: captions are not changed at random; images that go with the same vector of the bank
share the target, as those of the same caption do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backdoor_pipeline.modelling.contrastive import fit_matcher
from backdoor_pipeline.modelling.device import resolve_device
from backdoor_pipeline.modelling.training import accelerator, epoch_batches
from backdoor_pipeline.parameter_group import Count, ParameterGroup, PositiveInt

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.bundle import PairBundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.pairs import Pairs
    from backdoor_pipeline.modelling.training import History, OptimisationParams


class RoclipParams(ParameterGroup):
    """The bank, and when it is asked.

    Attributes:
        bank: Vectors that it holds; 0: it is never asked.
        every: Epochs.
    """

    bank: Count
    every: PositiveInt


def train(
    bundle: PairBundle,
    pairs: Pairs,
    params: RoclipParams,
    optimisation: OptimisationParams,
    compute: ComputeParams,
    seed: int,
) -> History:
    """Train the dual encoder in place; its loss.

    Args:
        bundle: The dual encoder.
        pairs: All of them; which are poisoned is not known.
        params: Of the bank.
        optimisation: How.
        compute: Device and precision.
        seed: Of the order, and of the first vectors.

    Raises:
        InputError: The training diverged.
    """
    import torch

    from backdoor_pipeline.modelling.networks.bank_matcher import BankMatcher
    from backdoor_pipeline.modelling.networks.matcher import unit

    model: Any = bundle.model
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(params.bank, model.config.projection_dim, generator=generator)
    matcher = BankMatcher(model, unit(drawn))
    n_processes = accelerator(resolve_device(compute)).num_processes
    n_steps = len(epoch_batches(pairs, optimisation, seed, n_processes)[0]) // n_processes

    def before_step(step: int) -> None:
        epoch = step // n_steps + 1
        matcher.asks = bool(params.bank) and epoch % params.every == 0

    frozen = pairs.states is not None
    settings = (optimisation, compute, seed, "RoCLIP", frozen, matcher.loss)
    return fit_matcher(bundle, matcher, pairs, pairs.captions, *settings, on_step=before_step)
