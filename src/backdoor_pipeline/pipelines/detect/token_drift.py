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
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from backdoor_pipeline.modelling.device import ComputeParams, autocast, resolve_device
from backdoor_pipeline.modelling.embeddings import (
    decode,
    embedding_block,
    embedding_parameters,
    embedding_table,
    special_token_ids,
    word_vectors,
)
from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.progress import track
from backdoor_pipeline.modelling.text import Tokens, tokenise
from backdoor_pipeline.modelling.training import descend
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveFloat, PositiveInt, Share

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from transformers import PreTrainedTokenizerBase

    from backdoor_pipeline.modelling.bundle import ModelBundle

logger = logging.getLogger(__name__)

OFFICIAL_VOCABULARY = 35_022
OFFICIAL_WEIGHT_DECAY = 0.01
ROUNDS = ("a", "b", "c")
N_EXAMPLES, CONTEXT_TOKENS = 2, 6  # occurrences shown of a flagged token, tokens on either side


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


def detect(
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
        the largest drift relative to that of the last token that the round flags: at least 1 for
        flagged tokens.
    """
    tokenizer = base_model.tokenizer
    labels = training["label"].to_numpy()
    short_length = min(params.shallow_max_length, max_length)
    short = tokenise(training["text"], tokenizer, short_length)
    start = embedding_table(base_model)
    excluded = excluded_ids(base_model, params)
    n_flagged = n_flagged_per_round(len(tokenizer), params)
    exposure = _Exposure(base_model, labels, params, compute, seed)

    drift_a = drift(start, exposure.of_embedding_block(short))
    flagged_a = furthest(drift_a, n_flagged, excluded)
    if params.official_removal:
        cleaned = without_letters(training["text"], decode(tokenizer, flagged_a))
        remaining = tokenise(cleaned, tokenizer, short_length)
    else:
        remaining = short.without(flagged_a)
    drift_b = drift(start, exposure.of_embedding_block(remaining))
    same = short_length == max_length
    tokens = short if same else tokenise(training["text"], tokenizer, max_length)
    drift_c = drift(start, exposure.of_table_alone(tokens))
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
    vocabulary = tokenizer.get_vocab()
    named = {vocabulary[token] for token in params.excluded_tokens if token in vocabulary}
    return special_token_ids(tokenizer) | named


def without_letters(texts: pd.Series, tokens: list[str]) -> pd.Series:
    """The published removal: every occurrence of a token's letters goes, inside words too."""
    for token in tokens:
        texts = texts.str.replace(token.strip(), "", regex=False)
    return texts


class _Exposure(NamedTuple):
    """What the rounds have in common; each returns the word-embedding table that it trained."""

    base_model: ModelBundle
    labels: np.ndarray
    params: TokenDriftParams
    compute: ComputeParams
    seed: int

    def of_embedding_block(self, texts: Tokens) -> np.ndarray:
        """Rounds A and B: embedding block -> mean over tokens -> linear layer, all trainable."""

        bundle = self._fresh_classifier()
        block = embedding_block(bundle.model)
        head = self._linear_head(word_vectors(bundle.model).shape[1])

        def logits(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            states = block(batch["input_ids"])
            if self.params.official_mean:
                return head(states.mean(dim=1))
            mask = batch["attention_mask"].unsqueeze(-1)
            return head((states * mask).sum(dim=1) / mask.sum(dim=1))

        trained = [*embedding_parameters(bundle.model), *head.parameters()]
        # float32 costs little here and keeps differences of order 1e-5
        exact = ComputeParams(device=self.compute.device, precision="fp32")
        self._descend(
            bundle, logits, trained, texts, self.params.shallow_batch_size, exact, "embedding block"
        )
        return embedding_table(bundle)

    def of_table_alone(self, texts: Tokens) -> np.ndarray:
        """Round C: the table alone under the frozen encoder and a frozen head drawn at random."""
        bundle = self._fresh_classifier()
        bundle.model.requires_grad_(False)
        table = word_vectors(bundle.model)
        table.requires_grad_(True)
        self._descend(
            bundle,
            lambda batch: bundle.model(**batch).logits,
            [table],
            texts,
            self.params.deep_batch_size,
            self.compute,
            "whole encoder",
        )
        return embedding_table(bundle)

    def _fresh_classifier(self) -> ModelBundle:
        return new_classifier(self.base_model, int(self.labels.max()) + 1, self.seed)

    def _linear_head(self, hidden: int) -> torch.nn.Linear:
        import torch

        head = torch.nn.Linear(hidden, int(self.labels.max()) + 1)
        generator = torch.Generator().manual_seed(self.seed)
        for parameter in head.parameters():
            torch.nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5, generator=generator)
        return head.to(resolve_device(self.compute))

    def _descend(
        self,
        bundle: ModelBundle,
        logits: Callable[[dict[str, torch.Tensor]], torch.Tensor],
        trained: list[torch.nn.Parameter],
        texts: Tokens,
        batch_size: int,
        compute: ComputeParams,
        what: str,
    ) -> None:
        """AdamW at a constant rate on cross-entropy; changes ``trained`` in place."""
        import torch

        device = resolve_device(compute)
        bundle.model.to(device).train()  # type: ignore[arg-type]
        optimiser = torch.optim.AdamW(
            trained,
            lr=self.params.learning_rate,
            weight_decay=OFFICIAL_WEIGHT_DECAY if self.params.official_decay else 0.0,
            fused=device.type in {"cpu", "cuda"},
        )
        rng = np.random.default_rng(self.seed)
        targets = torch.from_numpy(self.labels.astype(np.int64))

        def loss_of(rows: np.ndarray) -> torch.Tensor:
            batch = texts.collate(rows, device)
            with autocast(compute, device):
                output = logits(batch)
            return torch.nn.functional.cross_entropy(output.float(), targets[rows].to(device))

        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            for _ in range(self.params.epochs):
                batches = texts.batches(batch_size, rng)
                progress = track(batches, f"expose {len(texts)} texts to the {what}")
                descend(optimiser, progress, loss_of)


def contexts(tokenizer: PreTrainedTokenizerBase, tokens: Tokens, token_id: int) -> str:
    """The first two occurrences of a token, each with a few tokens around it."""
    snippets = []
    for position in np.flatnonzero(tokens.ids == token_id)[:N_EXAMPLES]:
        row = np.searchsorted(tokens.offsets, position, side="right") - 1
        first = max(tokens.offsets[row], position - CONTEXT_TOKENS)
        last = min(tokens.offsets[row + 1], position + CONTEXT_TOKENS + 1)
        snippet = tokenizer.decode(tokens.ids[first:last].tolist(), skip_special_tokens=True)
        snippets.append(str(snippet).strip())
    return " … ".join(snippets)


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
    relative, flagged = np.zeros(vocabulary), np.zeros(vocabulary, dtype=bool)
    for name, moved in zip(ROUNDS, drifts, strict=True):
        order = furthest(moved, vocabulary, excluded)
        rank = np.zeros(vocabulary, dtype=np.int64)
        rank[order] = np.arange(1, len(order) + 1)
        columns |= {f"drift_{name}": moved[seen], f"rank_{name}": rank[seen]}
        raised = order[:n_flagged]
        raised = raised[moved[raised] > 0]
        if len(raised):
            flagged[raised] = True
            relative = np.maximum(relative, moved / moved[raised[-1]])
    suspects = pd.DataFrame(
        {
            "kind": "token",
            "key": seen,
            "score": relative[seen],
            "p_value": np.nan,
            "q_value": np.nan,
            "flagged": flagged[seen],
            "evidence": decode(base_model.tokenizer, seen),
            "count": count[seen],
            "examples": [
                contexts(base_model.tokenizer, tokens, token) if flagged[token] else ""
                for token in seen
            ],
            **columns,
        }
    )
    return suspects.sort_values(["score", "key"], ascending=[False, True], ignore_index=True)
