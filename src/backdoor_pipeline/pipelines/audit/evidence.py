"""All evidence that the texts and labels of a table hold, at one risk of a false alarm."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from backdoor_pipeline.modelling.embeddings import embedding_table
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.modelling.words import END, START, read_words
from backdoor_pipeline.pipelines.audit.contradicted_labels import Encode, comparable, weigh_labels
from backdoor_pipeline.pipelines.audit.cross_fit import FOLDS, held_out, regression
from backdoor_pipeline.pipelines.audit.inserted_phrases import tie_to_labels, weigh_phrases
from backdoor_pipeline.pipelines.audit.natural_words import NaturalWords
from backdoor_pipeline.pipelines.audit.openings import weigh_openings
from backdoor_pipeline.pipelines.audit.power import measure_power
from backdoor_pipeline.pipelines.audit.surroundings import Surroundings
from backdoor_pipeline.pipelines.audit.suspicious_rows import reasons_by_words
from backdoor_pipeline.pipelines.audit.wording import as_written, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backdoor_pipeline.modelling.bundle import ModelBundle
    from backdoor_pipeline.pipelines.audit.params import EvidenceParams

SHARES = {"phrase": 0.6, "opening": 0.4}
"""What part of the tolerated risk each kind of evidence has; they sum to 1."""

SHARES_WITH_TRUSTED = {"phrase": 0.6, "opening": 0.2, "labels": 0.2}
"""The same, if there are trusted rows that labels can be compared with."""

PENALTY = 0.03  # see ``regression``
LONGEST_WORD = 64  # tokens
MOST_TAUGHT = 20_000  # texts that explain labels anew once an opening was told


class Evidence(NamedTuple):
    """What was found.

    Attributes:
        phrases: See ``weigh_phrases``, with ``flagged`` and ``written``.
        openings: See ``weigh_openings``, with ``flagged`` and ``written``.
        labels: See ``contradicted_labels.Contradictions``; empty without trusted rows.
        contradicted: Their rows; ``text`` in lower case.
        power: See ``measure_power``.
        facts: ``p_value`` of "nobody poisoned this" (reject at the risk), ``p_values`` by kind, the
            ``shares`` of the risk that each kind has, ``rows`` looked at,
            ``repeated_rows`` left out, ``trusted_rows`` compared with, ``told_apart``: how well
            their texts are told from the table's (``other_texts``; None if that was not asked),
            ``labels_compared`` with theirs, n-gram ``tests``, ``natural_words`` compared with.
    """

    phrases: pd.DataFrame
    openings: pd.DataFrame
    labels: pd.DataFrame
    contradicted: pd.DataFrame
    power: pd.DataFrame
    facts: dict[str, Any]


def gather(
    table: pd.DataFrame,
    base_model: ModelBundle,
    params: EvidenceParams,
    seed: int,
    trusted: pd.DataFrame | None = None,
    encode: Encode | None = None,
) -> Evidence:
    """The evidence in ``text`` and ``label`` of a table.

    Texts that stand there twice with the same label count once. The order of the rows does not
    matter.

    Args:
        table: ``text`` and ``label``, int64 from 0.
        base_model: A public pretrained model: its word embeddings are used here, nothing else.
        params: See ``EvidenceParams``.
        seed: Of samples and folds.
        trusted: ``text`` and ``label`` of rows known to be clean: what goes with a label in them as
            well is not suspected.
        encode: Texts to vectors, (n_texts, hidden), from which trusted rows tell what label a text
            should have. None: they are not asked.
    """
    table = table[["text", "label"]].sort_values(["text", "label"], ignore_index=True)
    distinct = ~table.assign(text=table["text"].str.lower()).duplicated()
    parts = [table[distinct]]
    if trusted is not None:
        parts.append(trusted[["text", "label"]].sort_values(["text", "label"]))
    rows = pd.concat(parts, ignore_index=True)
    labels = rows["label"].to_numpy()
    active = np.arange(len(rows)) < int(distinct.sum())
    words = read_words(rows["text"])
    vectors = spelled_vectors(words.spelling, base_model)
    around = Surroundings(words, labels, vectors, params.components, seed, active)
    ties = tie_to_labels(around, params)
    natural = NaturalWords(around, ties.words)
    explain = partial(explained, around.contents, labels, seed)
    probability = explain(np.zeros(len(rows), dtype=bool))
    phrases = weigh_phrases(around, ties, natural, probability, params)
    alone = ~rows["text"].str.lower().isin(_repeated(table["text"])).to_numpy()
    ask = encode is not None and bool(comparable(rows["label"][alone & ~active]))
    shares = SHARES_WITH_TRUSTED if ask else SHARES
    risks = {kind: params.risk * share for kind, share in shares.items()}

    def explain_without(some: np.ndarray) -> np.ndarray:
        return explain(some | (np.random.default_rng(seed).permutation(len(rows)) >= MOST_TAUGHT))

    openings = weigh_openings(around, probability, explain_without, risks["opening"])
    phrases = _flagged(phrases, "phrase", risks["phrase"], rows["text"])
    openings = _flagged(openings, "opening", risks["opening"], rows["text"])
    told = reasons_by_words(words, labels, phrases, openings)
    untold = alone & ~np.array([bool(reasons) for reasons in told], dtype=bool)
    own, clean = rows[untold & active], rows[untold & ~active]
    judged = weigh_labels(own, clean, encode if ask else None, risks.get("labels", 0.0), seed)
    contradicted = judged.rows.assign(text=judged.rows["text"].str.lower())
    found = {"phrase": phrases, "opening": openings, "labels": judged.labels}
    p_values = {
        kind: min(1.0, float(found[kind]["q_value"].min()) / share) if len(found[kind]) else 1.0
        for kind, share in shares.items()
    }
    facts = {
        "p_value": min(p_values.values()),
        "p_values": p_values,
        "shares": shares,
        "rows": int(distinct.sum()),
        "repeated_rows": int((~distinct).sum()),
        "trusted_rows": len(rows) - int(distinct.sum()),
        "told_apart": None if np.isnan(judged.told_apart) else judged.told_apart,
        "labels_compared": sorted(judged.labels["label"].tolist()),
        "tests": ties.n_tests,
        "natural_words": len(natural),
    }
    power = measure_power(natural, phrases, probability, ties, risks["phrase"])
    return Evidence(phrases, openings, judged.labels, contradicted, power, facts)


def _repeated(texts: pd.Series) -> pd.Series:
    """Texts that stand there more than once. Trusted rows hold none that stands in the table."""
    lower = texts.str.lower()
    return lower[lower.duplicated()]


def _flagged(evidence: pd.DataFrame, kind: str, level: float, texts: Sequence[str]) -> pd.DataFrame:
    """Which phrases or openings have a q-value of at most ``level``, and how texts write them."""
    flagged = evidence["q_value"] <= level
    written = [
        as_written(phrase, texts) if is_flagged else shown(phrase)
        for phrase, is_flagged in zip(evidence[kind], flagged, strict=True)
    ]
    return evidence.assign(flagged=flagged, written=pd.Series(written, dtype="str"))


def spelled_vectors(spelling: Sequence[str], bundle: ModelBundle) -> np.ndarray:
    """The mean embedding of the tokens of each word, (n_words, hidden); of the boundaries: zero."""
    table = embedding_table(bundle)
    tokens = tokenise(spelling, bundle.tokenizer, LONGEST_WORD)
    special = set(bundle.tokenizer.all_special_ids) - {bundle.tokenizer.unk_token_id}
    kept = ~np.isin(tokens.ids, sorted(special))
    rows, ids = tokens.rows[kept], tokens.ids[kept]
    vectors = np.zeros((len(spelling), table.shape[1]), dtype=np.float32)
    np.add.at(vectors, rows, table[ids])
    vectors[[START, END]] = 0
    return vectors / np.maximum(np.bincount(rows, minlength=len(spelling)), 1)[:, None]


def explained(texts: np.ndarray, labels: np.ndarray, seed: int, left_out: np.ndarray) -> np.ndarray:
    """The probability of each label by the text alone, by a regression that has not seen the text.

    Args:
        texts: Vectors, shape (n_texts, k).
        labels: int64, shape (n_texts,).
        seed: Of the folds.
        left_out: Texts that no regression learns from: bool, shape (n_texts,).

    Returns:
        Shape (n_texts, n_labels). A label that few texts have is as probable as it is frequent.
    """
    counts = np.bincount(labels[~left_out], minlength=labels.max() + 1)
    probability = np.tile(counts / counts.sum(), (len(labels), 1))
    common = np.flatnonzero(counts >= FOLDS)
    inside = np.isin(labels, common) & ~left_out
    if len(common) > 1:
        made = regression(PENALTY)
        fitted = held_out(made, texts[inside], labels[inside], seed, "predict_proba")
        probability[np.ix_(inside, common)] = fitted
        if left_out.any():
            made.fit(texts[inside], labels[inside])
            probability[np.ix_(left_out, common)] = made.predict_proba(texts[left_out])
    return probability
