"""Embeddings of flagged tokens fitted until the tokens change nothing.

The row that overwrites a flagged token's embedding means something to the classifier: a text with
the token still leans a little to one label or the other. So these rows, and nothing else, are
fitted by gradient descent until the training rows with flagged tokens are classified as the same
rows without them: the Kullback-Leibler divergence between the two predictions falls. The given
labels of these rows, which may be false, are not looked at. No clean rows are used.

Source: ours.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from backdoor_pipeline.modelling.bundle import ModelBundle
from backdoor_pipeline.modelling.device import ComputeParams, autocast, resolve_device
from backdoor_pipeline.modelling.embeddings import word_vectors
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.progress import track
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.modelling.training import descend
from backdoor_pipeline.parameter_group import Count, ParameterGroup, PositiveFloat, PositiveInt
from backdoor_pipeline.schemas import flagged_tokens

if TYPE_CHECKING:
    import pandas as pd


class NeutralisationParams(ParameterGroup):
    """How many training rows with flagged tokens to fit the embeddings to (0: none), and how."""

    rows: Count
    batch_size: PositiveInt
    learning_rate: PositiveFloat


def unlearn(
    bundle: ModelBundle,
    texts: pd.Series,
    suspects: pd.DataFrame,
    params: NeutralisationParams,
    max_length: int,
    compute: ComputeParams,
    seed: int,
) -> tuple[ModelBundle, dict[str, Any]]:
    """A copy of ``bundle`` with fitted embeddings; ``bundle`` itself where no token is flagged.

    Args:
        bundle: The classifier after its trigger tokens were overwritten; unchanged.
        texts: The training texts.
        suspects: ``suspects`` table; only flagged rows of kind "token" are used.
        params: See ``conf/base/parameters_unlearn.yml``.
        max_length: Tokens per text, special tokens counted.
        compute: Device and precision.
        seed: Draws the rows and the batches.

    Returns:
        The classifier, and what was done: ``rows``, how many training rows were used, and
        ``divergence_before`` and ``divergence_after`` in nats, means over the first and the last
        quarter of the steps.
    """
    import torch

    flagged, tokenizer = flagged_tokens(suspects), bundle.tokenizer
    nothing = {"rows": 0, "dev_rows": 0}
    if not len(flagged) or not params.rows:
        return bundle, nothing
    rng = np.random.default_rng(seed)
    tokens = tokenise(texts, tokenizer, max_length)
    chosen = rng.permutation(np.flatnonzero(tokens.contain(flagged)))[: params.rows]
    if not len(chosen):
        return bundle, nothing
    tokens = tokens.take(chosen)
    wanted = torch.from_numpy(predict(bundle, tokens.without(flagged), compute))

    device = resolve_device(compute)
    model = copy.deepcopy(bundle.model).eval().requires_grad_(False)
    model.to(device)  # type: ignore[arg-type]
    table = word_vectors(model).requires_grad_(True)
    ours = torch.zeros(len(table), 1, device=device)
    ours[flagged.tolist()] = 1.0
    optimiser = torch.optim.Adam([table], lr=params.learning_rate)

    def divergence_of(batch: np.ndarray) -> torch.Tensor:
        inputs = tokens.collate(batch, device)
        with autocast(compute, device):
            logits = model(**inputs).logits
        return torch.nn.functional.kl_div(
            logits.float().log_softmax(dim=1), wanted[batch].to(device), reduction="batchmean"
        )

    def keep_others() -> None:
        table.grad *= ours  # type: ignore[operator]  # Adam leaves rows alone without a gradient

    batches = track(tokens.batches(params.batch_size, rng), "neutralise")
    divergences = descend(optimiser, batches, divergence_of, keep_others)
    model.requires_grad_(True)
    quarter = -(-len(divergences) // 4)
    done = {
        "rows": len(chosen),
        "divergence_before": float(torch.stack(divergences[:quarter]).mean()),
        "divergence_after": float(torch.stack(divergences[-quarter:]).mean()),
    }
    return ModelBundle(model, tokenizer), done | {"dev_rows": 0}
