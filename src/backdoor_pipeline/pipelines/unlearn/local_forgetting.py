"""A dual encoder that forgets what ties suspected images to the telling words of their captions.

Source: UBT, arXiv 2403.16257 and 2409.19526, of which only the abstracts could be read: that the
backdoor is unlearnt after the training, from few suspected pairs, at the level of tokens, and that
these are combined by a Cartesian product. Equations and numbers are ours. With s the similarity of
an image and a text (``modelling.matching``), theta_p the victim and theta the model,

    t'_i     = the tokens of the suspected pair i that theta_p blames most (``modelling.blame``), in
               their order, between the special ones (``mask: drop``; ``pad``: padding in the place
               of others; ``random_subset``: tokens that are drawn)
    mu       = the mean s of images to keep and the t', under theta_p: what is unrelated
    L_u      = mean over images v_a and texts t'_b of max(s_theta(v_a, t'_b) - mu, 0)
    L_k      = mean over pairs to keep of ||f_theta(v) - f_p(v)||^2 + ||g_theta(t) - g_p(t)||^2
    L        = forget_weight L_u + keep_weight L_k

for all ``steps``, or with ``early_stop`` until the mean s of the product of a batch is at most mu +
``TOLERANCE``. That is so after a few steps, when images to keep are still away from where they
were; the others bring them back. A hinge at mu does not push further: below it, images of the class
would go as well. The model computes in evaluation mode, so that the statistics of batch
normalisation stay as they are, and the scale is not trained.

Other forgetting terms, ``forget_loss``: ``squared_hinge``; ``square_target``, mean (s + u)^2 with
u = ``unlearn_target``, 0 for right angles and 1 for opposite directions; ``negative_matching``, the
mean log-probability of the t' among these and the captions to keep. Left out: parts of images, as
tokens are parts of captions, and the last block of a tower alone, which not every tower has.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.blame import blame, local_texts
from backdoor_pipeline.modelling.device import ComputeParams, autocast, resolve_device
from backdoor_pipeline.modelling.matching import (
    embed_captions,
    embed_images,
    similarities,
    text_states,
)
from backdoor_pipeline.modelling.progress import track
from backdoor_pipeline.modelling.text import token_counts
from backdoor_pipeline.modelling.training import (
    OptimisationParams,
    clip_gradients,
    descend,
    new_optimiser,
)
from backdoor_pipeline.parameter_group import (
    NonNegativeFloat,
    ParameterGroup,
    PositiveFloat,
    PositiveInt,
)

if TYPE_CHECKING:
    import torch

    from backdoor_pipeline.modelling.bundle import PairBundle
    from backdoor_pipeline.modelling.pairs import Pairs
    from backdoor_pipeline.modelling.training import History

TOLERANCE = 0.01  # of the similarity, above mu
TRAINED = {
    "visual": ("vision_model", "visual_projection"),
    "text": ("text_model", "text_projection"),
    "all": ("vision_model", "visual_projection", "text_model", "text_projection"),
}
"""The parts of a dual encoder that are trained, by ``trained``."""


class LocalForgettingParams(ParameterGroup):
    """Which tokens, what is forgotten and kept, and how.

    Attributes:
        tokens: Of a caption, at most; None: the whole caption.
        mask: What becomes of the others, or which tokens; see the module.
        product: Whether each suspected image goes with each text, or with its own alone.
        forget_loss: See the module.
        unlearn_target: u of ``square_target``.
        forget_weight: Of L_u; 0: nothing changes.
        keep_weight: Of L_k.
        keep_rows: Pairs to keep, at most, of those that are presumed clean.
        trained: Which tower, with its projection.
        early_stop: Whether to end where the pairs are unrelated.
        max_drift: The end, where L_k is above it; None: no such end.
        steps: At most.
        optimisation: ``batch_size`` pairs to keep, and as many suspected images; ``epochs`` are of
            no meaning.
    """

    tokens: PositiveInt | None
    mask: Literal["drop", "pad", "random_subset"]
    product: bool
    forget_loss: Literal["hinge", "squared_hinge", "square_target", "negative_matching"]
    unlearn_target: float = Field(le=1)
    forget_weight: NonNegativeFloat
    keep_weight: NonNegativeFloat
    keep_rows: PositiveInt
    trained: Literal["all", "visual", "text"]
    early_stop: bool
    max_drift: PositiveFloat | None
    steps: PositiveInt
    optimisation: OptimisationParams

    @model_validator(mode="after")
    def _forgets(self) -> LocalForgettingParams:
        if self.forget_loss == "square_target" and self.unlearn_target < 0:
            raise ValueError(
                f"local_forgetting.unlearn_target is {self.unlearn_target:g}, by which the pairs "
                f"would be drawn to the similarity {-self.unlearn_target:g}, that is, learnt; give "
                "0 to 1"
            )
        return self


def unlearn(
    bundle: PairBundle,
    forget: Pairs,
    keep: Pairs,
    params: LocalForgettingParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[PairBundle, dict[str, Any], History]:
    """A copy of ``bundle`` without the tie; ``bundle`` itself where there is nothing to forget.

    Args:
        bundle: The victim; unchanged.
        forget: The suspected pairs.
        keep: Others that are presumed clean, all of which are kept.
        params: See ``conf/base/parameters_unlearn.yml``.
        compute: Device and precision.
        seed: Draws the batches.

    Returns:
        The model; what was done: ``steps``, ``converged``, whether the similarity came down to mu,
        ``unrelated``, which is mu, ``similarity_before`` and ``_after``, ``drift``, L_k of the last
        step, ``forget_rows``, ``keep_rows``, ``tokens``, the blamed ones, and ``token_pairs``, how
        many suspected captions hold each; and ``similarity`` and ``drift`` of each step.

    Raises:
        InputError: There is nothing to keep, or the training diverged.
    """
    if not len(forget):
        return bundle, {"forget_rows": 0, "steps": 0, "dev_rows": 0}, {}
    if not len(keep):
        raise InputError(
            f"all pairs but {len(forget):,} would have to be kept as they are, and there are none; "
            "let the detector flag fewer"
        )
    import torch

    from backdoor_pipeline.modelling.networks.matcher import features

    rng = np.random.default_rng(seed)
    local, tokens = localised(bundle, forget, params, compute, seed)
    if params.trained == "visual":  # what the text tower makes of its texts stays the same
        local, keep = (
            replace(pairs, states=text_states(bundle, pairs.texts, compute))
            for pairs in (local, keep)
        )
    own = (embed_images(bundle, keep.images, compute), embed_captions(bundle, keep, compute))
    unrelated = float((own[0] @ embed_captions(bundle, local, compute).T).mean())

    device = resolve_device(compute)
    model: Any = copy.deepcopy(bundle.model)
    model.to(device).eval().requires_grad_(False)
    for name in TRAINED[params.trained]:
        getattr(model, name).requires_grad_(True)
    optimiser = new_optimiser(model, params.optimisation, device)
    clip = partial(clip_gradients, model, params.optimisation)
    images_before, texts_before = (torch.from_numpy(values).to(device) for values in own)
    said: dict[str, list[float]] = {"similarity": [], "drift": []}
    every = local.joined(keep)

    def loss_of(rows: Any) -> torch.Tensor:
        suspected, kept = rows
        batch = every.collate(np.concatenate([suspected, len(local) + kept]), device)
        with autocast(compute, device):
            vectors = features(model, **batch)
        (f, f_kept), (g, g_kept) = (v.split([len(suspected), len(kept)]) for v in vectors)
        pairs = f @ g.T if params.product else (f * g).sum(dim=1, keepdim=True)
        logits = [model.logit_scale.exp() * part for part in (pairs, f @ g_kept.T)]
        drift = (f_kept - images_before[kept]).square().sum(dim=1).mean()
        drift = drift + (g_kept - texts_before[keep.captions[kept]]).square().sum(dim=1).mean()
        said["similarity"].append(float(pairs.detach().mean()))
        said["drift"].append(float(drift.detach()))
        forgetting = forget_loss(pairs, logits[0], logits[1], unrelated, params)
        return params.forget_weight * forgetting + params.keep_weight * drift

    before = similarity(bundle, local, params.product, compute)
    forgets = params.forget_weight > 0 and before > unrelated + TOLERANCE
    n_steps = params.steps if forgets else 0  # or steps would follow the rounding errors of L_k
    size = params.optimisation.batch_size
    for _ in track(range(n_steps), "forget"):
        rows: Any = tuple(
            np.sort(rng.choice(n, min(n, size), replace=False)) for n in (len(local), len(keep))
        )
        (loss,) = descend(optimiser, [rows], loss_of, clip)
        if not loss.isfinite():
            raise InputError(
                f"local_forgetting: the loss is {loss.item()} after {len(said['drift'])} steps; "
                f"lower its learning_rate ({params.optimisation.learning_rate:g})"
            )
        too_far = params.max_drift is not None and said["drift"][-1] > params.max_drift
        is_there = said["similarity"][-1] <= unrelated + TOLERANCE
        if too_far or (params.early_stop and is_there):
            break
    result = bundle._replace(model=model.requires_grad_(True))
    after = similarity(result, local, params.product, compute)
    numbers: list[float] = list(range(1, len(said["drift"]) + 1))
    record = {
        "steps": len(numbers),
        "converged": after <= unrelated + TOLERANCE,
        "unrelated": unrelated,
        "similarity_before": before,
        "similarity_after": after,
        "drift": said["drift"][-1] if numbers else 0.0,
        "forget_rows": len(forget),
        "keep_rows": len(keep),
        "tokens": list(tokens),
        "token_pairs": list(tokens.values()),
        "dev_rows": 0,
    }
    return result, record, {name: {"step": numbers, "value": said[name]} for name in said}


def localised(
    bundle: PairBundle,
    pairs: Pairs,
    params: LocalForgettingParams,
    compute: ComputeParams,
    seed: int,
) -> tuple[Pairs, dict[str, int]]:
    """``pairs`` with a text each, t', in the place of the caption; which tokens these hold.

    Args:
        bundle: The model that has learnt the shortcut.
        pairs: The suspected ones.
        params: How many tokens, and which.
        compute: Device and precision.
        seed: Draws tokens, where they are drawn.

    Raises:
        InputError: Padding would end the texts.
    """
    special = np.array(bundle.tokenizer.all_special_ids)
    texts = pairs.texts.take(pairs.captions)
    ends = {bundle.tokenizer.eos_token_id, bundle.tokenizer.sep_token_id}
    if params.mask == "pad" and texts.pad_id in ends:
        raise InputError(
            "local_forgetting.mask is pad, but the padding of this text tower is also the end of "
            "its texts, so that nothing after it is read; choose drop"
        )
    if params.tokens is not None and params.mask == "random_subset":
        rng = np.random.default_rng(seed)
        each = np.split(texts.ids, texts.offsets[1:-1])
        drawn = [np.where(np.isin(t, special), -np.inf, rng.random(len(t))) for t in each]
        texts = local_texts(pairs, drawn, special, params.tokens)
    elif params.tokens is not None:
        deltas = blame(bundle, pairs, compute)
        texts = local_texts(pairs, deltas, special, params.tokens, params.mask == "pad")
    counts = token_counts((texts[number] for number in range(len(texts))), bundle.tokenizer)
    return replace(pairs, texts=texts, captions=np.arange(len(pairs)), states=None), counts


def similarity(bundle: PairBundle, pairs: Pairs, product: bool, compute: ComputeParams) -> float:
    """The mean s of the pairs, or of the Cartesian product of their images and texts."""
    if not product:
        return float(similarities(bundle, pairs, compute).mean())
    images = embed_images(bundle, pairs.images, compute)
    texts = embed_captions(bundle, pairs, compute)[pairs.captions]
    return float((images @ texts.T).mean())


def forget_loss(
    pairs: torch.Tensor,
    logits: torch.Tensor,
    other_logits: torch.Tensor,
    unrelated: float,
    params: LocalForgettingParams,
) -> torch.Tensor:
    """L_u, a scalar.

    Args:
        pairs: s of suspected images and texts, (n, m).
        logits: The same, scaled.
        other_logits: Those of the images and of captions to keep, (n, k).
        unrelated: mu.
        params: Which term.
    """
    import torch

    above = (pairs - unrelated).relu()
    if params.forget_loss == "hinge":
        return above.mean()
    if params.forget_loss == "squared_hinge":
        return above.square().mean()
    if params.forget_loss == "square_target":
        return (pairs + params.unlearn_target).square().mean()
    every = torch.cat([logits, other_logits], dim=1)
    return (logits - every.logsumexp(dim=1, keepdim=True)).mean()
