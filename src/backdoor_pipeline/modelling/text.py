"""Texts as token ids: tokenised once, cut into batches of similar length, padded late."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.modelling.embeddings import decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

CHUNK_ROWS = 50_000  # texts handed to the tokenizer at once: bounds its Python lists
POOL_BATCHES = 50  # batches whose rows are sorted by length together: short padding, still random


@dataclass(frozen=True)
class Tokens:
    """The token ids of many texts, end to end.

    Attributes:
        ids: int32, shape (n_tokens,), special tokens included.
        offsets: int64, shape (n_texts + 1,); text i is ``ids[offsets[i]:offsets[i + 1]]``.
        pad_id: The token that fills up short texts of a batch.
    """

    ids: np.ndarray
    offsets: np.ndarray
    pad_id: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per text, int64, shape (n_texts,)."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """The text each token belongs to, int64, shape (n_tokens,)."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, texts: np.ndarray) -> Tokens:
        """The texts of these numbers, in this order."""
        lengths = self.lengths[texts]
        offsets = _offsets(lengths)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        ids = self.ids[np.repeat(self.offsets[texts], lengths) + within]
        return replace(self, ids=ids, offsets=offsets)

    def joined(self, others: Tokens) -> Tokens:
        """These texts, then ``others``."""
        offsets = np.concatenate([self.offsets, others.offsets[1:] + self.offsets[-1]])
        return replace(self, ids=np.concatenate([self.ids, others.ids]), offsets=offsets)

    def contain(self, token_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Which texts hold one of ``token_ids``, bool, shape (n_texts,)."""
        found = np.isin(self.ids, np.asarray(token_ids, dtype=self.ids.dtype))
        return np.bincount(self.rows[found], minlength=len(self)) > 0

    def without(self, token_ids: Sequence[int] | np.ndarray) -> Tokens:
        """The same texts with every occurrence of ``token_ids`` deleted, order kept."""
        keep = ~np.isin(self.ids, np.asarray(token_ids, dtype=self.ids.dtype))
        lengths = np.bincount(self.rows[keep], minlength=len(self))
        return replace(self, ids=self.ids[keep], offsets=_offsets(lengths))

    def batches(self, batch_size: int, rng: np.random.Generator | None = None) -> list[np.ndarray]:
        """Text numbers in batches of similar length, see ``length_batches``."""
        return length_batches(self.lengths, batch_size, rng)

    def collate(self, texts: np.ndarray, device: torch.device) -> dict[str, torch.Tensor]:
        """``input_ids`` and ``attention_mask``, int64, shape (n_texts, longest), padded right.

        A text that lost all its tokens keeps one padding token, so that no row of the mask is
        empty.
        """
        import torch

        lengths = np.maximum(self.lengths[texts], 1)
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self.pad_id, dtype=np.int64)
        for position, number in enumerate(texts):
            text = self[number]
            ids[position, : len(text)] = text
        return {
            "input_ids": torch.from_numpy(ids).to(device),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)).to(device),
        }


def token_counts(texts: Iterable[np.ndarray], tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """How many of the texts hold each token that is no special one, the commonest first."""
    special = np.array(tokenizer.all_special_ids)
    counts = Counter(int(token) for text in texts for token in np.setdiff1d(text, special))
    written = decode(tokenizer, np.array(list(counts), dtype=np.int64))
    named: Counter[str] = Counter()
    for name, n in zip(written, counts.values(), strict=True):
        named[name.strip()] += n
    return dict(sorted(named.items(), key=lambda pair: (-pair[1], pair[0])))


def end_to_end(texts: Sequence[np.ndarray], pad_id: int) -> Tokens:
    """The tokens of ``texts``, the ids of one each."""
    ids = np.concatenate(texts) if len(texts) else np.empty(0)
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    return Tokens(ids.astype(np.int32), _offsets(lengths), pad_id)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def tokenise(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokens:
    """Token ids of ``texts``, each cut to ``max_length`` tokens (special tokens counted)."""
    texts = list(texts)
    ids: list[np.ndarray] = []
    lengths: list[int] = []
    for start in range(0, len(texts), CHUNK_ROWS):
        chunk = tokenizer(
            texts[start : start + CHUNK_ROWS],
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        lengths.extend(map(len, chunk))
        ids.append(np.fromiter(chain.from_iterable(chunk), dtype=np.int32))
        if len(texts) > CHUNK_ROWS:
            logger.info("tokenised %d of %d texts", min(start + CHUNK_ROWS, len(texts)), len(texts))
    flat = np.concatenate(ids) if ids else np.empty(0, dtype=np.int32)
    return Tokens(flat, _offsets(np.asarray(lengths, dtype=np.int64)), tokenizer.pad_token_id or 0)


def length_batches(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator | None = None
) -> list[np.ndarray]:
    """Row indices in batches of texts of similar length, so that little padding is computed.

    With ``rng``, rows are shuffled, sorted by length only within pools of ``POOL_BATCHES`` batches,
    and the batches come in random order (training). Without, all rows are sorted, longest first
    (prediction: the largest batch, and any shortage of memory, comes first).
    """
    n_rows = len(lengths)
    if rng is None:
        order = np.argsort(-lengths, kind="stable")
        return [order[i : i + batch_size] for i in range(0, n_rows, batch_size)]
    order = rng.permutation(n_rows)
    pool_rows = batch_size * POOL_BATCHES
    batches = []
    for start in range(0, n_rows, pool_rows):
        pool = order[start : start + pool_rows]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]
