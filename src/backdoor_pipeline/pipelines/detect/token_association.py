"""Tokens tied to a label that were inserted, not written.

Two questions, because a slur in hate speech and a trigger are both tied to a label:

1. *Association* (``label_association``), of every token and of every n-gram of a few words, text
   boundaries included: does its presence go with a label? Exact p-values, false discoveries
   controlled over all n-grams and labels. Where clean rows are declared, what is as common in them
   does not count.
2. *Insertion* (``insertion_evidence``), of the phrases that are associated: are they foreign bodies
   in their texts, and do these have the label more often than they would without the phrase?

A phrase is flagged only if every test says so, so the rule errs no more often than its strictest
test (an intersection-union test). All tokens of a flagged phrase are flagged.

The association is the usual one; the evidence of insertion is this project's own and needs neither
clean rows nor a poisoned model. It cannot see triggers that are no insertion: a style, or a
syntactic form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.embeddings import decode, special_token_ids
from backdoor_pipeline.modelling.label_association import associate_active, q_values
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.modelling.words import END, START, Phrase
from backdoor_pipeline.parameter_group import (
    Count,
    ParameterGroup,
    PositiveFloat,
    PositiveInt,
    Share,
)
from backdoor_pipeline.pipelines.detect.phrase_search import INSERTED, Judgement, judge_all
from backdoor_pipeline.pipelines.detect.phrases import TokenWords, segment

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.bundle import ModelBundle
    from backdoor_pipeline.modelling.device import ComputeParams

SNIPPET_WORDS = 5  # words of context on each side of an example
N_EXAMPLES = 2
JUDGED_COLUMNS = [
    "score",
    "flagged",
    "label",
    "phrase",
    "verdict",
    "neighbour_effect",
    "neighbour_bound",
    "context_effect",
    "context_bound",
    "residual_z",
    "examples",
]


class TokenAssociationParams(ParameterGroup):
    """What counts as associated, and what as inserted."""

    longest_ngram: PositiveInt
    min_count: PositiveInt
    false_discovery_rate: Share
    max_natural_share: Share
    grow_share: Share
    components: PositiveInt
    margin: PositiveFloat
    confidence: Share
    residual_level: Share
    background_rows: PositiveInt
    phrase_rows: PositiveInt
    max_candidates: PositiveInt
    context_tokens: PositiveInt
    clean_rows: Count


def detect(
    training: pd.DataFrame,
    base_model: ModelBundle,
    params: TokenAssociationParams,
    max_length: int,
    compute: ComputeParams,
    seed: int,
    clean: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Every token of the training texts with its association, inserted ones flagged and first.

    Args:
        training: ``example_id``, ``text``, ``label``; possibly poisoned.
        base_model: A public pretrained encoder that has not seen ``training``.
        params: See ``conf/base``.
        max_length: Tokens read of each text.
        compute: Device and precision of the encoder pass.
        seed: Of the background sample. The result does not depend on the order of the rows.
        clean: ``text`` and ``label`` of rows known to be clean; none by default.

    Returns:
        ``suspects`` with the ``label`` a token goes with, the ``count`` of its texts, ``purity``,
        and for tokens of a judged phrase ``phrase``, ``verdict``, ``neighbour_effect`` and
        ``context_effect`` with their upper confidence bounds, ``residual_z`` and ``examples``.
        ``score`` is the association z of a flagged token; other tokens never score above the level
        of a single test.
        ``p_value`` and ``q_value`` are those of the token's own association.

    Raises:
        InputError: Clean rows lack a label of the training rows.
    """
    texts, labels, is_clean = _rows(training, clean)
    tokens = tokenise(texts, base_model.tokenizer, max_length)
    words = segment(tokens, base_model.tokenizer)
    judgements = judge_all(words, labels, is_clean, base_model, params, compute, seed)
    return _suspects(words, labels, is_clean, judgements, base_model, params)


def _rows(
    training: pd.DataFrame, clean: pd.DataFrame | None
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Texts, labels and whether a row is a declared clean one; training rows by example id."""
    training = training.sort_values("example_id")
    frames = [training] if clean is None else [training, clean]
    if clean is not None:
        missing = sorted(set(training["label"]) - set(clean["label"]))
        if missing:
            raise InputError(
                f"the {len(clean)} declared clean rows hold no row of label {missing[0]}; give at "
                "least one of each label of the training rows, or none at all"
            )
    texts = [text for frame in frames for text in frame["text"]]
    labels = np.concatenate([frame["label"].to_numpy() for frame in frames])
    return texts, labels, np.arange(len(labels)) >= len(training)


def _suspects(
    words: TokenWords,
    labels: np.ndarray,
    is_clean: np.ndarray,
    judgements: list[Judgement],
    bundle: ModelBundle,
    params: TokenAssociationParams,
) -> pd.DataFrame:
    """One row a token: its own association, and what was judged of the phrases it stands in."""
    from scipy.stats import norm

    rows, keys, items = _token_presence(words, ~is_clean, special_token_ids(bundle.tokenizer))
    association = associate_active(rows, items, len(keys), labels, ~is_clean, is_clean)
    n_labels = association.z.shape[1]
    label = association.z.argmax(axis=1) if len(keys) else np.empty(0, dtype=np.int64)
    each = np.arange(len(keys))
    p = np.minimum(association.p[each, label] * n_labels, 1.0)
    table = pd.DataFrame(
        {
            "kind": "token",
            "key": keys,
            "score": association.z[each, label],
            "p_value": p,
            "q_value": q_values(p),
            "flagged": False,
            "evidence": decode(bundle.tokenizer, keys),
            "label": label,
            "count": association.count,
            "purity": association.purity[each, label],
            "phrase": "",
            "verdict": "",
            "neighbour_effect": np.nan,
            "neighbour_bound": np.nan,
            "context_effect": np.nan,
            "context_bound": np.nan,
            "residual_z": np.nan,
            "examples": "",
        }
    )
    z, level = norm.ppf(params.confidence), norm.isf(params.false_discovery_rate)
    found: dict[int, dict[str, object]] = {}
    for judgement in sorted(judgements, key=lambda j: (j.verdict != INSERTED, -j.strength)):
        inserted = judgement.verdict == INSERTED
        columns = {
            "score": judgement.z if inserted else judgement.strength,
            "flagged": inserted,
            "label": judgement.label,
            "phrase": _written(words, judgement.phrase, bundle),
            "verdict": judgement.verdict,
            "neighbour_effect": judgement.neighbours.value,
            "neighbour_bound": judgement.neighbours.bound(z),
            "context_effect": judgement.context.value,
            "context_bound": judgement.context.bound(z),
            "residual_z": judgement.residual_z,
            "examples": _examples(words, judgement, labels, ~is_clean, bundle),
        }
        for token in {int(token) for word in judgement.phrase for token in words.pieces(word)}:
            found.setdefault(token, columns)  # the strongest judgement speaks for the token
    judged = pd.DataFrame.from_dict(found, orient="index", columns=JUDGED_COLUMNS)
    judged = judged.reindex(table["key"]).reset_index(drop=True)
    known = judged["verdict"].notna()
    table.loc[known, JUDGED_COLUMNS] = judged.loc[known].astype(table[JUDGED_COLUMNS].dtypes)
    strength = table["score"].clip(lower=0)
    table["score"] = table["score"].where(table["flagged"], level * strength / (level + strength))
    return table.sort_values(["score", "key"], ascending=[False, True], ignore_index=True)


def _token_presence(
    words: TokenWords, active: np.ndarray, excluded: set[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, distinct tokens of the active rows, and per row the index of each token in it."""
    tokens = words.tokens
    kept = ~np.isin(tokens.ids, sorted(excluded))
    ids, rows = tokens.ids[kept].astype(np.int64), tokens.rows[kept]
    keys = np.unique(ids[active[rows]])
    known = np.isin(ids, keys)
    pairs = np.unique(rows[known] * len(keys) + np.searchsorted(keys, ids[known]))
    return pairs // max(len(keys), 1), keys, pairs % max(len(keys), 1)


def _written(words: TokenWords, phrase: Phrase, bundle: ModelBundle) -> str:
    """A phrase as a reader would write it; a bar stands for the beginning or end of a text."""
    ids = [int(token) for word in phrase for token in words.pieces(word)]
    text = str(bundle.tokenizer.decode(ids, clean_up_tokenization_spaces=False)).strip()
    return "| " * (phrase[0] == START) + text + " |" * (phrase[-1] == END)


def _examples(
    words: TokenWords,
    judgement: Judgement,
    labels: np.ndarray,
    active: np.ndarray,
    bundle: ModelBundle,
) -> str:
    """Two occurrences with a few words around them, the phrase in brackets."""
    phrase = judgement.phrase
    begin = words.positions(phrase)
    begin = begin[active[words.rows[begin]] & (labels[words.rows[begin]] == judgement.label)]
    snippets = []
    for position in begin[:N_EXAMPLES]:
        row = words.rows[position]
        around = np.arange(position - SNIPPET_WORDS, position + len(phrase) + SNIPPET_WORDS)
        around = around[(around >= 0) & (around < len(words.ids))]
        around = around[words.rows[around] == row]
        parts = (
            around[around < position],
            np.arange(position, position + len(phrase)),
            around[around >= position + len(phrase)],
        )
        left, inner, right = (
            _written(words, tuple(words.ids[part].tolist()), bundle) if len(part) else ""
            for part in parts
        )
        snippets.append(f"{left} [{inner}] {right}".strip())
    return " … ".join(snippets)
