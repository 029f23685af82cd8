"""How well suspects agree with the truth: precision, recall, rank of the trigger."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RECALL_AT = (1, 5, 15)
TEXTS_READ = 100  # poisoned texts of each trigger, enough to see how it is tokenised


def trigger_token_ids(poison: pd.DataFrame, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the word pieces of every inserted trigger, as most of the texts that hold it have it.

    A byte-level tokenizer writes a word in two ways, at the beginning of a text and after a blank.
    Style and syntax triggers insert no words: what their ``trigger`` column names does not stand in
    the text, so they have no trigger tokens.
    """
    ids: set[int] = set()
    for trigger, rows in poison.groupby("trigger"):
        words = set(str(trigger).split())
        if not words or not words <= set(str(rows["text"].iloc[0]).split()):
            continue
        texts = tokenizer(rows["text"].head(TEXTS_READ).tolist(), add_special_tokens=False)
        for word in words:
            ways: list[list[int]] = [
                list(tokenizer(written, add_special_tokens=False)["input_ids"])
                for written in (f" {word}", word)
            ]
            n_with = [_n_with(way, texts["input_ids"]) for way in ways]
            ids |= set(ways[int(np.argmax(n_with))])
    return sorted(ids - set(tokenizer.all_special_ids))


def _n_with(piece: list[int], texts: list[list[int]]) -> int:
    """How many of ``texts`` hold ``piece``, end to end."""
    return sum(
        any(text[start : start + len(piece)] == piece for start in range(len(text)))
        for text in texts
    )


def detection_metrics(
    suspects: pd.DataFrame,
    poison: pd.DataFrame,
    tokenizer: PreTrainedTokenizerBase | None,
    n_examples: int,
    known_clean: bool = True,
) -> dict[str, float | int | None]:
    """Agreement of ``suspects`` with the inserted tokens or (example detectors) the poisoned rows.

    Args:
        suspects: Of one kind; see ``schemas.SUSPECTS``.
        poison: ``example_id``, ``text`` and ``trigger`` of the poisoned training rows; no rows in a
            control run without poison.
        tokenizer: Splits triggers into the tokens that a token detector can name; None of images,
            whose suspects are examples.
        n_examples: Size of the training set.
        known_clean: Whether the data are known to hold no trigger but the added ones. Of a user's
            own data that is not known: without added poison nothing flagged is right or wrong.

    Returns:
        ``precision`` and ``recall`` of the flagged keys, ``auroc`` of the score, ``trigger_rank``
        (best rank of a true key, 1 = most suspicious), ``trigger_recall`` (share of trigger tokens
        flagged), ``trigger_recall_at_k``, ``flagged`` and ``false_alarms`` (flagged keys that are
        not true). None where undefined.
    """
    by_kind = not suspects.empty and bool((suspects["kind"] == "example").all())
    if examples := tokenizer is None or by_kind:
        true = set(map(int, poison["example_id"]))
    else:
        true = set(trigger_token_ids(poison, tokenizer))
    ranked = suspects.sort_values(["score", "key"], ascending=[False, True])
    hit = ranked["key"].isin(true).to_numpy()
    flagged = ranked["flagged"].to_numpy()
    n_hit, n_flagged = int((hit & flagged).sum()), int(flagged.sum())
    ranks = np.flatnonzero(hit) + 1
    recall = n_hit / len(true) if true else None
    judged = bool(true) or (known_clean and len(poison) == 0)
    metrics: dict[str, float | int | None] = {
        "precision": n_hit / n_flagged if n_flagged and judged else None,
        "recall": recall,
        "auroc": _auroc(ranked["score"].to_numpy(), hit),
        "trigger_recall": None if examples else recall,
        "trigger_rank": int(ranks[0]) if len(ranks) else None,
        "trigger_tokens": None if examples else len(true),
        "flagged": n_flagged,
        "false_alarms": n_flagged - n_hit if judged else None,
    }
    if examples:
        return metrics | {"flagged_share": n_flagged / n_examples}
    return metrics | {
        f"trigger_recall_at_{k}": float((ranks <= k).sum() / len(true)) if true else None
        for k in RECALL_AT
    }


def isolation_metrics(isolated: list[int], poisoned: pd.Series) -> dict[str, float | int | None]:
    """How many rows a training has isolated, and how well they agree with the poisoned ones.

    Args:
        isolated: Their example ids.
        poisoned: The example ids of the poisoned training rows.

    Returns:
        ``rows``, ``precision`` and ``recall``, None where there are no rows or no poison.
    """
    n_hit = int(poisoned.isin(isolated).sum())
    return {
        "rows": len(isolated),
        "precision": n_hit / len(isolated) if isolated and len(poisoned) else None,
        "recall": n_hit / len(poisoned) if len(poisoned) else None,
    }


def _auroc(scores: np.ndarray, hit: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(hit, scores)) if hit.any() and not hit.all() else None
