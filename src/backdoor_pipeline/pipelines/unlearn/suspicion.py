"""What suspects mean for an unlearner: which training rows, or which tokens, are to be forgotten.

Detectors suspect examples or tokens, and unlearners forget rows or tokens; this is where the two
meet, so that any detector goes with any unlearner. Tokens stand for the rows that hold one and have
the label that is the commonest among these: a trigger calls up one label, and rows with others hold
the token by nature. Rows stand for the tokens that tell them from the other rows, which is ours:
those in at least ``HELD_BY`` of them, ``LIFT`` times as often as elsewhere, and more often than
chance would have it (hypergeometric test, Bonferroni's correction at ``LEVEL``). The lift leaves
room for undiscovered poison among the other rows. A single row tells nothing about tokens.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.modelling.training import labelled
from backdoor_pipeline.schemas import flagged_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from backdoor_pipeline.modelling.bundle import Bundle
    from backdoor_pipeline.modelling.training import Labelled

logger = logging.getLogger(__name__)

HELD_BY = 0.5  # of the suspected rows
LIFT = 3.0
LEVEL = 0.01


def flagged_rows(train: pd.DataFrame, suspects: pd.DataFrame) -> np.ndarray:
    """Which rows of ``train`` a detector of examples flags, bool, shape (n_rows,)."""
    examples = suspects.loc[(suspects["kind"] == "example") & suspects["flagged"], "key"]
    return train["example_id"].isin(examples).to_numpy()


def presumed_clean(train: pd.DataFrame, suspects: pd.DataFrame) -> np.ndarray:
    """Which pairs of ``train`` are to be kept as they are, bool, shape (n_rows,).

    All that are not flagged; where the detector says which pairs it has exposed, and how similar
    they are to a trusted encoder, the better half of the others.
    """
    kept = ~flagged_rows(train, suspects)
    if "trusted_similarity" not in suspects:
        return kept
    of_rows = suspects.set_index("key").loc[train["example_id"]]
    similar = of_rows["trusted_similarity"].to_numpy()
    return kept & ~of_rows["exposed"].to_numpy() & (similar >= np.median(similar))


def drawn(rows: np.ndarray, n: int, seed: int) -> np.ndarray:
    """At most ``n`` of the ``rows``, a mask, drawn by ``seed``."""
    there = np.flatnonzero(rows)
    chosen = np.random.default_rng(seed).permutation(there)[:n]
    return np.isin(np.arange(len(rows)), chosen)


def forget_set(
    train: pd.DataFrame, suspects: pd.DataFrame, bundle: Bundle, max_length: int
) -> np.ndarray:
    """Which rows of ``train`` are to be forgotten, bool, shape (n_rows,).

    Those that a detector flags; where it flags tokens, those that hold one and have the label that
    is the commonest among these, the lowest of equals.
    """
    chosen = flagged_rows(train, suspects)
    tokens = flagged_tokens(suspects)
    if len(tokens) and "text" in train:
        texts = tokenise(train["text"], bundle.tokenizer, max_length)  # type: ignore[union-attr]
        hold, labels = texts.contain(tokens), train["label"].to_numpy()
        if hold.any():
            chosen = chosen | (hold & (labels == np.bincount(labels[hold]).argmax()))
    return chosen


def parted(
    train: pd.DataFrame, suspects: pd.DataFrame, bundle: Bundle, max_length: int
) -> tuple[Labelled, Labelled]:
    """The rows to forget, and all others, as the model of ``bundle`` reads them."""
    forget = forget_set(train, suspects, bundle, max_length)
    if not forget.any():
        logger.warning("no training row is suspected: there is nothing to forget")
    data = labelled(train, bundle, max_length)
    return data.take(np.flatnonzero(forget)), data.take(np.flatnonzero(~forget))


def with_tokens(
    train: pd.DataFrame,
    suspects: pd.DataFrame,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> pd.DataFrame:
    """``suspects`` and, where only examples are flagged, the tokens that tell these from others.

    Args:
        train: The training rows, with their ``text``.
        suspects: Of a detector.
        tokenizer: Of the model that is to forget.
        max_length: Tokens of a text that the model reads.
    """
    rows = flagged_rows(train, suspects)
    if not rows.any() or len(flagged_tokens(suspects)):
        return suspects
    texts = tokenise(train["text"], tokenizer, max_length)
    tokens, share, p_values = _telling(texts.rows, texts.ids, rows)
    if not len(tokens):
        logger.warning("no token tells the suspected rows from all others: none is to be forgotten")
    found = pd.DataFrame(
        {
            "kind": pd.Series("token", index=range(len(tokens)), dtype="str"),
            "key": tokens.astype(np.int64),
            "score": share,
            "p_value": p_values,
            "q_value": np.full(len(tokens), np.nan),
            "flagged": np.ones(len(tokens), dtype=bool),
            "evidence": pd.Series(tokenizer.convert_ids_to_tokens(tokens.tolist()), dtype="str"),
        }
    )
    return pd.concat([suspects, found], ignore_index=True) if len(found) else suspects


def _telling(
    places: np.ndarray, ids: np.ndarray, flagged: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens that tell flagged texts from others, the share of those that hold each, p-values.

    Args:
        places: The text of each token, shape (n_tokens,).
        ids: The tokens, shape (n_tokens,).
        flagged: Of each text, bool, shape (n_texts,).
    """
    from scipy.stats import hypergeom

    tokens, number = np.unique(ids, return_inverse=True)
    once = np.unique(number * len(flagged) + places)  # a text counts once for a token
    number, texts = once // len(flagged), once % len(flagged)
    n_flagged = int(flagged.sum())
    held = np.bincount(number[flagged[texts]], minlength=len(tokens))
    in_all = np.bincount(number, minlength=len(tokens))
    share = held / n_flagged
    elsewhere = (in_all - held) / max(len(flagged) - n_flagged, 1)
    p_values = hypergeom.sf(held - 1, len(flagged), in_all, n_flagged)
    chosen = (share >= HELD_BY) & (share >= LIFT * elsewhere) & (p_values * len(tokens) <= LEVEL)
    return tokens[chosen], share[chosen], p_values[chosen]
