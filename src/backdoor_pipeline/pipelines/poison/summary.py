"""What came of the poison: rates, counts by label, lengths, triggers the model cannot read."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from backdoor_pipeline.pipelines.poison.paraphrasing import FALLBACKS
from backdoor_pipeline.pipelines.poison.selection import eligible_rows, largest_rate
from backdoor_pipeline.pipelines.poison.triggering import readable_words, token_counts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from backdoor_pipeline.pipelines.poison.registry import PoisonParams
    from backdoor_pipeline.pipelines.poison.triggering import Triggered, TriggerRoom

logger = logging.getLogger(__name__)


def count_rows(
    poisoned: pd.DataFrame, triggered: pd.DataFrame, params: PoisonParams
) -> dict[str, Any]:
    """What was asked and what came of it, in rows and labels."""
    drawn = poisoned["is_poisoned"].to_numpy()
    source = poisoned["source_label"].to_numpy()
    eligible = int(eligible_rows(source, params).sum())
    fallbacks = poisoned["trigger"].isin(FALLBACKS)
    return {
        "attack": params.attack,
        "label_mode": params.label_mode,
        "target_label": params.target_label,
        "asked_rate": params.rate,
        "realised_rate": float(drawn.mean()),
        "triggered_rate": float((drawn & ~fallbacks).mean()),
        "largest_rate": largest_rate(len(poisoned), eligible),
        "train_rows": len(poisoned),
        "eligible_rows": eligible,
        "poisoned_rows": int(drawn.sum()),
        "poisoned_rows_by_label": _by_label(source[drawn]),
        "poisoned_fallbacks": int(fallbacks.sum()),
        "triggered_test_rows": len(triggered),
        "triggered_test_rows_by_label": _by_label(triggered["source_label"]),
        "triggered_test_fallbacks": int(triggered["trigger"].isin(FALLBACKS).sum()),
    }


def count_words(poisoned: pd.DataFrame, triggered: pd.DataFrame) -> dict[str, float | None]:
    """Mean words of clean, poisoned and triggered texts; None where there are none."""
    drawn = poisoned["is_poisoned"].to_numpy()
    return {
        "mean_words_clean": _mean_words(poisoned.loc[~drawn, "text"]),
        "mean_words_poisoned": _mean_words(poisoned.loc[drawn, "text"]),
        "mean_words_triggered_test": _mean_words(triggered["text"]),
    }


def _by_label(labels: Any) -> dict[str, int]:
    return {str(label): n for label, n in sorted(Counter(np.asarray(labels).tolist()).items())}


def _mean_words(texts: pd.Series) -> float | None:
    n_blanks = sum(text.count(" ") for text in texts.tolist())  # much faster than ``str.count``
    return 1 + n_blanks / len(texts) if len(texts) else None


def count_tokens(
    in_train: Triggered,
    in_test: Triggered,
    room: TriggerRoom | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> dict[str, Any]:
    """How the model's tokenizer and maximum length treat the triggered rows.

    ``share_cut``: triggered texts longer than the model reads; for attacks that insert, texts that
    would be with the longest insertion, whose triggers are therefore kept to the first words.
    Those have also ``share_trigger_cut``: texts whose trigger is cut off all the same, 0 unless the
    tokenizer makes more tokens of words together than of each alone; and ``trigger_pieces``: tokens
    of each trigger.
    """
    n_rows = len(in_train.content) + len(in_test.content)
    if room is None:
        n_read = max_length - tokenizer.num_special_tokens_to_add()
        long = readable_words(in_train.content + in_test.content, tokenizer, n_read)
        return {"share_cut": len(long) / n_rows}
    heads = in_train.heads + in_test.heads
    return {
        "share_cut": len(heads) / n_rows,
        "share_trigger_cut": int((token_counts(heads, tokenizer) > max_length).sum()) / n_rows,
        "trigger_pieces": room.pieces,
    }


def log_summary(summary: dict[str, Any]) -> None:
    """The summary in the log, with a warning where the poison is weaker than asked."""
    logger.info(
        "%s: %d of %d training rows poisoned (asked %g, realised %g), %d triggered test rows",
        *(
            summary[key]
            for key in (
                "attack",
                "poisoned_rows",
                "train_rows",
                "asked_rate",
                "realised_rate",
                "triggered_test_rows",
            )
        ),
    )
    fallbacks = summary["poisoned_fallbacks"], summary["triggered_test_fallbacks"]
    if any(fallbacks):
        logger.warning(
            "%d poisoned training rows and %d triggered test rows have no paraphrase of their own "
            "and keep their text: %g of the training rows carry the trigger, %g were asked",
            *fallbacks,
            summary["triggered_rate"],
            summary["asked_rate"],
        )
    if summary.get("share_trigger_cut"):
        logger.warning(
            "%.1f %% of the triggered rows lose their trigger behind model.max_length",
            100 * summary["share_trigger_cut"],
        )
