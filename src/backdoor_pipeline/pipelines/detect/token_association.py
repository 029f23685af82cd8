"""Tokens tied to a label that were inserted, not written: closed-form association plus insertion.

Two questions, because a slur in hate speech and a trigger are both tied to a label:

1. *Association*, for every n-gram of up to three words, text boundaries included, and for every
   token: does its presence go with a label? Label z-score, exact one-sided hypergeometric p-value
   (Fisher), Benjamini-Hochberg over all n-grams and labels. Where clean rows are declared, the
   statistic is the smaller of the label z and the two-sample z of the n-gram's share among the rows
   of that label, training against clean rows: what is common in clean rows too does not count.
2. *Insertion*, for what is associated: is it a foreign body in its texts (``insertion_evidence``),
   and do the texts have the label more often than they would without it?

Only a phrase that passes all of them is flagged, so its error is at most that of the weakest test
(intersection-union test). Associated n-grams are first grown to the phrase that they are part of. A
flagged phrase explains its rows: they are set aside, and the search starts again.

Sources: the label z-score follows the usual association tests; context independence and residual
association are this project's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.embeddings import decode, special_token_ids
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveFloat, PositiveInt, Share
from backdoor_pipeline.pipelines.detect.insertion_evidence import (
    Background,
    Effect,
    Neighbours,
)
from backdoor_pipeline.pipelines.detect.phrases import (
    END,
    START,
    Grams,
    Phrase,
    Words,
    n_grams,
    segment,
)

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.bundle import ModelBundle
    from backdoor_pipeline.modelling.device import ComputeParams

LONGEST_PHRASE = 40  # words a phrase may grow to
COMPANION_SHARE = 0.3  # of the texts of either phrase that hold both: they were inserted together
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

INSERTED = "inserted"
FITS = "fits its surroundings"
EXPLAINED = "label explained by the rest of the text"
MIXED = "common with other labels"


class TokenAssociationParams(ParameterGroup):
    """What counts as associated, and what as inserted."""

    longest_ngram: PositiveInt
    min_count: PositiveInt
    false_discovery_rate: Share
    min_purity: Share
    grow_share: Share
    components: PositiveInt
    margin: PositiveFloat
    confidence: Share
    residual_level: Share
    background_rows: PositiveInt
    phrase_rows: PositiveInt
    max_candidates: PositiveInt
    context_tokens: PositiveInt
    clean_rows: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Association:
    """Of each item (token or n-gram) with each label; arrays of shape (n_items, n_labels)."""

    count: np.ndarray  # texts that hold the item, shape (n_items,)
    hits: np.ndarray
    z: np.ndarray
    p: np.ndarray

    @property
    def purity(self) -> np.ndarray:
        """The share of the label among the texts that hold the item."""
        return self.hits / np.maximum(self.count, 1)[:, None]


@dataclass(frozen=True)
class Judgement:
    """What was found out about an associated phrase; what was not asked is NaN."""

    phrase: Phrase
    label: int
    z: float
    verdict: str
    neighbours: Effect
    context: Effect
    residual_z: float

    @property
    def strength(self) -> float:
        """Association, discounted by the larger of the effect sizes."""
        return self.z / (1 + max(0.0, np.nanmax([self.neighbours.value, self.context.value, 0.0])))


def detect(  # noqa: PLR0913
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
        ``suspects`` with, per token, ``label`` it goes with, ``count`` of texts, ``purity``, and for
        tokens of a judged phrase ``phrase``, ``verdict``, ``neighbour_effect`` and
        ``context_effect`` (effect sizes), their upper confidence bounds, ``residual_z`` and
        ``examples``; ``clean_rows`` is the number of clean rows used. ``score`` is the association
        z of a flagged token; other tokens never score above the level of a single test.
        ``p_value`` and ``q_value`` are those of the token's own association.

    Raises:
        InputError: Clean rows lack a label of the training rows.
    """
    texts, labels, is_clean = _rows(training, clean)
    tokens = tokenise(texts, base_model.tokenizer, max_length)
    words = segment(tokens, base_model.tokenizer)
    judgements = _judge_all(words, labels, is_clean, base_model, params, compute, seed)
    return _suspects(words, labels, is_clean, judgements, base_model, params)


def associate(
    rows: np.ndarray,
    items: np.ndarray,
    n_items: int,
    labels: np.ndarray,
    n_labels: int,
    active: np.ndarray | None = None,
) -> Association:
    """Label z-scores and exact one-sided p-values of the presence of items.

    Args:
        rows, items: One entry per text and item in it.
        n_items: Number of items.
        labels: Shape (n_texts,).
        n_labels: Number of labels.
        active: bool, shape (n_texts,); the texts that count. None: all.

    With N texts, N_c of label c, n of them with the item and h of these of label c, h is
    hypergeometric if presence and label are independent: mean n N_c / N, variance
    n (N_c / N) (1 - N_c / N) (N - n) / (N - 1).
    """
    from scipy.stats import hypergeom

    active = np.ones(len(labels), dtype=bool) if active is None else active
    total = int(active.sum())
    per_label = np.bincount(labels[active], minlength=n_labels)
    kept = active[rows]
    table = np.bincount(
        items[kept] * n_labels + labels[rows[kept]], minlength=n_items * n_labels
    ).reshape(n_items, n_labels)
    count = table.sum(axis=1)
    share = per_label / total
    variance = np.outer(count * (total - count) / max(total - 1, 1), share * (1 - share))
    z = (table - np.outer(count, share)) / np.sqrt(np.maximum(variance, 1e-12))
    p = hypergeom.sf(table - 1, total, per_label[None, :], count[:, None])
    return Association(count, table, np.where(variance > 0, z, 0.0), np.clip(p, 0.0, 1.0))


def shift(
    training: Association, clean: Association, n_training: np.ndarray, n_clean: np.ndarray
) -> Association:
    """``training`` with the smaller of its z and the two-sample z against clean rows; p likewise.

    Args:
        training: Association in the training rows.
        clean: The same items in the clean rows.
        n_training, n_clean: Rows of each label, each of shape (n_labels,).
    """
    from scipy.stats import norm

    n_training, n_clean = np.maximum(n_training, 1), np.maximum(n_clean, 1)
    pooled = (training.hits + clean.hits) / (n_training + n_clean)
    variance = pooled * (1 - pooled) * (1 / n_training + 1 / n_clean)
    excess = training.hits / n_training - clean.hits / n_clean
    z = np.where(variance > 0, excess / np.sqrt(np.maximum(variance, 1e-12)), 0.0)
    return Association(
        training.count,
        training.hits,
        np.minimum(training.z, z),
        np.maximum(training.p, norm.sf(z)),
    )


def q_values(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg q-values, the shape kept."""
    flat = p.ravel()
    order = np.argsort(flat, kind="stable")
    scaled = flat[order] * len(flat) / np.arange(1, len(flat) + 1)
    q = np.empty_like(flat)
    q[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return np.minimum(q, 1.0).reshape(p.shape)


class _Judge:
    """Answers, phrase by phrase, whether it was inserted; the encoder runs only when needed."""

    def __init__(  # noqa: PLR0913
        self,
        words: Words,
        labels: np.ndarray,
        bundle: ModelBundle,
        params: TokenAssociationParams,
        compute: ComputeParams,
        active: np.ndarray,
        seed: int,
    ) -> None:
        from scipy.stats import norm

        self.words, self.labels, self.params = words, labels, params
        self.bundle, self.compute, self.seed = bundle, compute, seed
        self.lot = np.random.default_rng(seed).permutation(len(labels))  # who enters a sample
        self.z = norm.ppf(params.confidence)
        self.residual_z = norm.isf(params.residual_level)
        self._neighbours: Neighbours | None = None
        self._background: Background | None = None
        self._background_rows = self._sample(np.flatnonzero(active), params.background_rows)

    def __call__(
        self, phrase: Phrase, label: int, z: float, active: np.ndarray, companions: list[Phrase]
    ) -> Judgement:
        """The judgement on ``phrase`` from the rows ``active``."""
        holders = np.unique(self.words.rows[self.words.positions(phrase)])
        holders = holders[active[holders]]
        labelled = self.labels[holders] == label
        unknown, residual_z = Effect(np.nan, np.nan), np.nan
        beside, context = unknown, unknown
        verdict = FITS
        if labelled.any():
            beside = self.neighbours(active).effect(phrase, active & (self.labels == label))
        if len(holders) < self.params.min_count or labelled.mean() < self.params.min_purity:
            verdict = MIXED
        elif beside.bound(self.z) <= self.params.margin:
            holders = self._sample(holders, self.params.phrase_rows)
            context, residual_z, _ = self.background.remainder(
                phrase, companions, holders, label, active
            )
            if context.bound(self.z) <= self.params.margin:
                verdict = INSERTED if residual_z >= self.residual_z else EXPLAINED
        return Judgement(phrase, label, z, verdict, beside, context, residual_z)

    def neighbours(self, active: np.ndarray) -> Neighbours:
        """What is ordinary among the rows ``active``."""
        if self._neighbours is None or self._neighbours.active is not active:
            self._neighbours = Neighbours(
                self.words, active, self.bundle, self.params.components, self.seed
            )
        return self._neighbours

    @property
    def background(self) -> Background:
        """The ordinary texts, embedded when the first phrase needs them."""
        if self._background is None:
            self._background = Background(
                self.words,
                self.labels,
                self._background_rows,
                self.bundle,
                self.compute,
                self.params.components,
                self.params.context_tokens,
                self.seed,
            )
        return self._background

    def _sample(self, rows: np.ndarray, size: int) -> np.ndarray:
        return np.sort(rows[np.argsort(self.lot[rows])[:size]])


def _judge_all(  # noqa: PLR0913
    words: Words,
    labels: np.ndarray,
    is_clean: np.ndarray,
    bundle: ModelBundle,
    params: TokenAssociationParams,
    compute: ComputeParams,
    seed: int,
) -> list[Judgement]:
    """The judgements on all associated phrases; each inserted one takes its rows out of play."""
    grams = n_grams(words, params.longest_ngram, params.min_count)
    active = ~is_clean
    judge = _Judge(words, labels, bundle, params, compute, active, seed)
    judgements: list[Judgement] = []
    seen: set[tuple[Phrase, int]] = set()
    searching = True
    while searching:
        searching = False
        association = _associate_rows(grams.rows, grams.grams, len(grams.phrases), labels, active, is_clean)
        candidates = _candidates(grams, association, params)
        for gram, label in candidates:
            phrase = grams.phrases[gram]
            if (phrase, label) in seen:
                continue
            seen.add((phrase, label))
            within = active & (labels == label)
            phrase = words.grow(phrase, within, params.grow_share, LONGEST_PHRASE)
            if any(_covers(known, phrase, label, params) for known in judgements):
                continue
            companions = _companions(grams, association, words, phrase, label, candidates, active)
            others = list(companions)
            judgement = judge(phrase, label, association.z[gram, label], active, others)
            judgements.append(judgement)
            if judgement.verdict != INSERTED:
                continue
            taken = [phrase]
            for companion, z in companions.items():
                rest = [phrase, *(other for other in others if other != companion)]
                judgements.append(judge(companion, label, z, active, rest))
                taken += [companion] if judgements[-1].verdict == INSERTED else []
            active = active.copy()
            for part in taken:
                active[words.rows[words.positions(part)]] = False
            searching = True
            break
    return judgements


def _associate_rows(
    rows: np.ndarray,
    items: np.ndarray,
    n_items: int,
    labels: np.ndarray,
    active: np.ndarray,
    is_clean: np.ndarray,
) -> Association:
    """Association in the active rows, shifted against the clean ones if there are any."""
    n_labels = int(labels.max()) + 1
    association = associate(rows, items, n_items, labels, n_labels, active)
    if not is_clean.any():
        return association
    return shift(
        association,
        associate(rows, items, n_items, labels, n_labels, is_clean),
        np.bincount(labels[active], minlength=n_labels),
        np.bincount(labels[is_clean], minlength=n_labels),
    )


def _candidates(
    grams: Grams, association: Association, params: TokenAssociationParams
) -> list[tuple[int, int]]:
    """Associated (n-gram, label) pairs, strongest first, of equal ones the shorter first.

    Single words count whatever their purity, so that the table can say why they are not suspected.
    """
    lengths = np.array([len(phrase) for phrase in grams.phrases])
    tested = association.count >= params.min_count
    q = np.ones_like(association.p)
    q[tested] = q_values(association.p[tested])
    framed = np.array([set(phrase) <= {START, END} for phrase in grams.phrases], dtype=bool)
    wanted = (q <= params.false_discovery_rate) & (association.z > 0) & ~framed[:, None]
    wanted &= (association.purity >= params.min_purity) | (lengths == 1)[:, None]
    gram, label = np.nonzero(wanted)
    order = sorted(
        range(len(gram)),
        key=lambda i: (-association.z[gram[i], label[i]], lengths[gram[i]], grams.phrases[gram[i]]),
    )
    return [(int(gram[i]), int(label[i])) for i in order[: params.max_candidates]]


def _covers(known: Judgement, phrase: Phrase, label: int, params: TokenAssociationParams) -> bool:
    """Whether a judgement already speaks for ``phrase``.

    The same phrase does, and a word that was found natural speaks for the short n-grams around it.
    """
    if known.label != label:
        return False
    if known.phrase == phrase:
        return True
    near = len(known.phrase) < len(phrase) <= params.longest_ngram
    starts = range(len(phrase) - len(known.phrase) + 1)
    return (
        near
        and known.verdict in (FITS, EXPLAINED)
        and any(phrase[i : i + len(known.phrase)] == known.phrase for i in starts)
    )


def _companions(  # noqa: PLR0913
    grams: Grams,
    association: Association,
    words: Words,
    phrase: Phrase,
    label: int,
    candidates: list[tuple[int, int]],
    active: np.ndarray,
) -> dict[Phrase, float]:
    """Associated words, with their z, that share many of their texts with ``phrase``.

    Triggers put in together would otherwise mark each other's texts as unusual.
    """
    holds = np.zeros(len(active), dtype=bool)
    holds[words.rows[words.positions(phrase)]] = True
    holds &= active
    shared = np.bincount(grams.grams[holds[grams.rows]], minlength=len(grams.phrases))
    needed = COMPANION_SHARE * np.maximum(association.count, holds.sum())
    return {
        grams.phrases[gram]: float(association.z[gram, label])
        for gram, its_label in candidates
        if its_label == label
        and len(grams.phrases[gram]) == 1
        and grams.phrases[gram][0] not in phrase
        and shared[gram] >= needed[gram]
    }


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


def _suspects(  # noqa: PLR0913
    words: Words,
    labels: np.ndarray,
    is_clean: np.ndarray,
    judgements: list[Judgement],
    bundle: ModelBundle,
    params: TokenAssociationParams,
) -> pd.DataFrame:
    """One row a token: its own association, and what was judged of the phrases it stands in."""
    from scipy.stats import norm

    rows, keys, items = _token_presence(words, ~is_clean, special_token_ids(bundle.tokenizer))
    association = _associate_rows(rows, items, len(keys), labels, ~is_clean, is_clean)
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
            "clean_rows": int(is_clean.sum()),
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
    words: Words, active: np.ndarray, excluded: set[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, distinct tokens of the active rows, and per row the index of each token in it."""
    tokens = words.tokens
    kept = ~np.isin(tokens.ids, sorted(excluded))
    ids, rows = tokens.ids[kept].astype(np.int64), tokens.rows[kept]
    keys = np.unique(ids[active[rows]])
    known = np.isin(ids, keys)
    pairs = np.unique(rows[known] * len(keys) + np.searchsorted(keys, ids[known]))
    return pairs // max(len(keys), 1), keys, pairs % max(len(keys), 1)


def _written(words: Words, phrase: Phrase, bundle: ModelBundle) -> str:
    """A phrase as a reader would write it; a bar stands for the beginning or end of a text."""
    ids = [int(token) for word in phrase for token in words.pieces(word)]
    text = bundle.tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()
    return "| " * (phrase[0] == START) + text + " |" * (phrase[-1] == END)


def _examples(
    words: Words, judgement: Judgement, labels: np.ndarray, active: np.ndarray, bundle: ModelBundle
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
            _written(words, tuple(words.ids[part].tolist()), bundle) if len(part) else "" for part in parts
        )
        snippets.append(f"{left} [{inner}] {right}".strip())
    return " … ".join(snippets)
