"""Tokens whose embedding moves far when only embeddings may learn: BTU's three exposures.

Source: "Backdoor Token Unlearning", AAAI 2025, arXiv 2501.03272, stage 1. Round A trains the
embedding block under a linear classifier, round B does so again without the tokens of round A,
round C trains the word-embedding table alone under the whole frozen encoder. In each round the
score of a token is the Euclidean distance its row moved.

Departures from the published code, each with an ``official_*`` switch that restores it: texts are
averaged over their real tokens (published: padding too), tokens are removed by id (published: by
deleting their letters from the text), the table is not decayed (published: AdamW's 0.01), and the
vocabulary is counted (published: 35,022 for every model).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from backdoor_pipeline.modelling.device import ComputeParams, autocast, resolve_device
from backdoor_pipeline.modelling.embeddings import (
    decode,
    embedding_block,
    embedding_table,
    special_token_ids,
)
from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.progress import track
from backdoor_pipeline.modelling.text import Tokens, collate, length_batches, tokenise
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveFloat, PositiveInt, Share

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from backdoor_pipeline.modelling.bundle import ModelBundle

logger = logging.getLogger(__name__)

OFFICIAL_VOCABULARY = 35_022
OFFICIAL_WEIGHT_DECAY = 0.01
ROUNDS = ("a", "b", "c")


class TokenDriftParams(ParameterGroup):
    """The three exposures."""

    alpha: Share
    learning_rate: PositiveFloat
    epochs: PositiveInt
    shallow_batch_size: PositiveInt
    deep_batch_size: PositiveInt
    shallow_max_length: PositiveInt
    excluded_tokens: tuple[str, ...]
    official_mean: bool = False
    official_removal: bool = False
    official_decay: bool = False
    official_vocabulary: bool = False


def detect(  # noqa: PLR0913
    training: pd.DataFrame,
    base_model: ModelBundle,
    params: TokenDriftParams,
    max_length: int,
    compute: ComputeParams,
    seed: int,
) -> pd.DataFrame:
    """The suspects of the three rounds, most suspicious first.

    Args:
        training: Columns ``text`` and ``label``; possibly poisoned.
        base_model: The public pretrained encoder, before it has seen ``training``.
        params: See ``conf/base/parameters_detect.yml``.
        max_length: Tokens per text in round C.
        compute: Device and precision.
        seed: Of the random heads, the dropout and the order of the batches.

    Returns:
        One row for each token of the training texts: ``suspects`` with ``count`` (texts that hold
        the token) and per round r its ``drift_r`` and ``rank_r`` (1 = moved furthest). ``score`` is
        the largest drift relative to the round's threshold, so a token is flagged where it is >= 1.
    """
    tokenizer = base_model.tokenizer
    labels = training["label"].to_numpy()
    n_classes = int(labels.max()) + 1
    tokens = tokenise(training["text"], tokenizer, max_length)
    short = tokenise(training["text"], tokenizer, min(params.shallow_max_length, max_length))
    start = embedding_table(base_model)
    excluded = excluded_ids(base_model, params)
    n_flagged = n_flagged_per_round(len(tokenizer), params)

    def shallow(texts: Tokens) -> np.ndarray:
        return drift(start, _train_shallow(base_model, texts, labels, n_classes, params, compute, seed))

    drift_a = shallow(short)
    flagged_a = furthest(drift_a, n_flagged, excluded)
    remaining = (
        _without_letters(training["text"], flagged_a, base_model, params)
        if params.official_removal
        else short.without(flagged_a)
    )
    drift_b = shallow(remaining)
    drift_c = drift(
        start, _train_table(base_model, tokens, labels, n_classes, params, compute, seed)
    )
    return _suspects(base_model, tokens, (drift_a, drift_b, drift_c), n_flagged, excluded)


def drift(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How far each row moved: Euclidean distance, float64, shape (vocabulary,)."""
    return np.linalg.norm(after.astype(np.float64) - before.astype(np.float64), axis=1)


def furthest(scores: np.ndarray, n: int, excluded: set[int]) -> np.ndarray:
    """The ``n`` token ids with the largest scores, excluded ids left out, largest first."""
    allowed = scores.astype(np.float64).copy()
    allowed[sorted(excluded)] = -np.inf
    order = np.argsort(-allowed, kind="stable")[:n]
    return order[np.isfinite(allowed[order])]


def n_flagged_per_round(vocabulary: int, params: TokenDriftParams) -> int:
    """K = floor(alpha V): how many tokens each round flags."""
    return int(params.alpha * (OFFICIAL_VOCABULARY if params.official_vocabulary else vocabulary))


def excluded_ids(base_model: ModelBundle, params: TokenDriftParams) -> set[int]:
    """Ids that are never suspected: special tokens and the tokens that the user names."""
    tokenizer = base_model.tokenizer
    named = tokenizer.convert_tokens_to_ids(list(params.excluded_tokens))
    return special_token_ids(tokenizer) | {i for i in named if i is not None}


def _train_shallow(  # noqa: PLR0913
    base_model: ModelBundle,
    tokens: Tokens,
    labels: np.ndarray,
    n_classes: int,
    params: TokenDriftParams,
    compute: ComputeParams,
    seed: int,
) -> np.ndarray:
    """The word table after training embedding block -> mean -> linear layer, all of it trainable."""
    import torch

    bundle = new_classifier(base_model, n_classes, seed)
    block = embedding_block(bundle.model)
    hidden = bundle.model.get_input_embeddings().weight.shape[1]
    generator = torch.Generator().manual_seed(seed)
    head = torch.nn.Linear(hidden, n_classes)
    bound = hidden**-0.5
    for parameter in head.parameters():
        torch.nn.init.uniform_(parameter, -bound, bound, generator=generator)
    head.to(resolve_device(compute))

    def logits(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        states = block(batch["input_ids"])
        if params.official_mean:
            return head(states.mean(dim=1))
        mask = batch["attention_mask"].unsqueeze(-1)
        return head((states * mask).sum(dim=1) / mask.sum(dim=1))

    trained = [p for module in _block_modules(bundle.model) for p in module.parameters()]
    _descend(
        bundle,
        logits,
        [*trained, *head.parameters()],
        tokens,
        labels,
        params.shallow_batch_size,
        params,
        ComputeParams(device=compute.device, precision="fp32"),  # cheap; drift is of order 1e-4
        seed,
        f"expose {len(tokens)} texts to the embedding block",
    )
    return embedding_table(bundle)


def _train_table(  # noqa: PLR0913
    base_model: ModelBundle,
    tokens: Tokens,
    labels: np.ndarray,
    n_classes: int,
    params: TokenDriftParams,
    compute: ComputeParams,
    seed: int,
) -> np.ndarray:
    """The word table after training it alone under the frozen encoder and a frozen random head."""
    bundle = new_classifier(base_model, n_classes, seed)
    bundle.model.requires_grad_(False)
    table = bundle.model.get_input_embeddings().weight.requires_grad_(True)
    _descend(
        bundle,
        lambda batch: bundle.model(**batch).logits,
        [table],
        tokens,
        labels,
        params.deep_batch_size,
        params,
        compute,
        seed,
        f"expose {len(tokens)} texts to the whole encoder",
    )
    return embedding_table(bundle)


def _descend(  # noqa: PLR0913
    bundle: ModelBundle,
    logits: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    trained: list[torch.nn.Parameter],
    tokens: Tokens,
    labels: np.ndarray,
    batch_size: int,
    params: TokenDriftParams,
    compute: ComputeParams,
    seed: int,
    what: str,
) -> None:
    """AdamW at a constant rate on cross-entropy; changes ``trained`` in place."""
    import torch

    device = resolve_device(compute)
    bundle.model.to(device).train()
    decay = OFFICIAL_WEIGHT_DECAY if params.official_decay else 0.0
    optimiser = torch.optim.AdamW(
        trained, lr=params.learning_rate, weight_decay=decay, fused=device.type in {"cpu", "cuda"}
    )
    rng = np.random.default_rng(seed)
    targets = torch.from_numpy(labels.astype(np.int64))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for _ in range(params.epochs):
            for rows in track(length_batches(tokens.lengths, batch_size, rng), what):
                batch = collate(tokens, rows, bundle.tokenizer.pad_token_id, device)
                with autocast(compute, device):
                    output = logits(batch)
                loss = torch.nn.functional.cross_entropy(output.float(), targets[rows].to(device))
                loss.backward()
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)


def _block_modules(model: object) -> list[torch.nn.Module]:
    """The modules whose parameters the embedding block uses."""
    encoder = model.base_model
    if hasattr(encoder, "embeddings"):
        return [encoder.embeddings]
    return [encoder.get_input_embeddings(), *([encoder.wpe] if hasattr(encoder, "wpe") else [])]


def _without_letters(
    texts: pd.Series, token_ids: np.ndarray, base_model: ModelBundle, params: TokenDriftParams
) -> Tokens:
    """The published removal: every occurrence of a token's letters goes, inside words too."""
    for token in decode(base_model.tokenizer, token_ids):
        texts = texts.str.replace(token.strip(), "", regex=False)
    return tokenise(texts, base_model.tokenizer, params.shallow_max_length)


def _suspects(
    base_model: ModelBundle,
    tokens: Tokens,
    drifts: tuple[np.ndarray, ...],
    n_flagged: int,
    excluded: set[int],
) -> pd.DataFrame:
    vocabulary = len(drifts[0])
    pairs = np.unique(tokens.rows * vocabulary + tokens.ids)  # a token counts once a text
    count = np.bincount(pairs % vocabulary, minlength=vocabulary)
    seen = np.array(sorted(set(np.flatnonzero(count)) - excluded), dtype=np.int64)
    columns: dict[str, np.ndarray] = {}
    relative = np.zeros(vocabulary)
    for name, moved in zip(ROUNDS, drifts, strict=True):
        order = furthest(moved, vocabulary, excluded)
        rank = np.zeros(vocabulary, dtype=np.int64)
        rank[order] = np.arange(1, len(order) + 1)
        columns |= {f"drift_{name}": moved[seen], f"rank_{name}": rank[seen]}
        if 0 < n_flagged <= len(order) and moved[order[n_flagged - 1]] > 0:
            relative = np.maximum(relative, moved / moved[order[n_flagged - 1]])
    suspects = pd.DataFrame(
        {
            "kind": "token",
            "key": seen,
            "score": relative[seen],
            "p_value": np.nan,
            "q_value": np.nan,
            "flagged": relative[seen] >= 1,
            "evidence": decode(base_model.tokenizer, seen),
            "count": count[seen],
            **columns,
        }
    )
    return suspects.sort_values(["score", "key"], ascending=[False, True], ignore_index=True)
