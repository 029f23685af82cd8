"""Phrases that are tied to a label and were put into their texts, with a family-wise error rate.

1. Every n-gram of a few words is tested for its tie to a label (Fisher's exact test, Bonferroni
   over all n-grams and labels). What passes is grown to the phrase that it is part of.
2. Each of these phrases gets a p-value of being natural (``natural_words``): the share of the
   words in this table whose places look as accidental, by the normal distribution of their lower
   end.
3. The p-values are compared at the tolerated risk (``weighted_tests``). Phrases whose label their
   texts explain less, and that stand less often with other labels, get more of it.

That a word is tied to a label is no evidence: slurs are, in hate speech. Nor is an accidental
place: "however" has one. Under the null hypothesis a phrase is natural, and then its ties to labels
say nothing about its places; so the choice in 1 and the weights in 3 do not spoil the p-values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from backdoor_pipeline.modelling.companions import companions
from backdoor_pipeline.modelling.label_association import associate
from backdoor_pipeline.modelling.words import END, START, Phrase, WrittenWords, n_grams
from backdoor_pipeline.pipelines.audit.natural_words import NaturalWords
from backdoor_pipeline.pipelines.audit.weighted_tests import weighted_q_values

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.label_association import Association
    from backdoor_pipeline.modelling.words import Grams
    from backdoor_pipeline.pipelines.audit.params import EvidenceParams
    from backdoor_pipeline.pipelines.audit.surroundings import Surroundings

LONGEST_PHRASE = 40  # words a phrase may grow to
FEWEST_HITS = 8  # texts with its label that a phrase needs, to say anything about its places
AT_EDGE = 0.8  # of its texts, from which on a phrase counts as put at their start or end
DOUBT = 0.25  # that trusted texts hold a phrase so often by chance, which it is given
CERTAIN = 0.02  # no label is taken to be more certain than all but this
SNIPPET_WORDS = 5  # words of context on each side of an example
N_EXAMPLES = 2
TINY = 1e-9
EVIDENCE = ["beyond_texts", "beyond_prior"]
COLUMNS = [
    "phrase",
    "label",
    "texts",
    "hits",
    "natural_share",
    "association_p",
    "expected",
    "residual_z",
    "seam",
    "size",
    "score",
    "position",
    *EVIDENCE,
    "examples",
]


class Ties(NamedTuple):
    """Which n-grams are tied to which labels.

    Attributes:
        grams: All that were tested.
        association: Of each with each label.
        candidates: (n-gram, label) pairs that are tied beyond chance, the surest first.
        min_count: Texts that each n-gram stands in, at least.
        largest_p: Of the tie of an n-gram that is or would be a candidate, at most.
    """

    grams: Grams
    association: Association
    candidates: list[tuple[int, int]]
    min_count: int
    largest_p: float

    @property
    def n_tests(self) -> int:
        """N-grams times labels."""
        return int(self.association.p.size)

    @property
    def words(self) -> set[int]:
        """The single words among the candidates."""
        phrases = (self.grams.phrases[gram] for gram, _ in self.candidates)
        return {word for word, *more in phrases if not more}


def tie_to_labels(surroundings: Surroundings, params: EvidenceParams) -> Ties:
    """The n-grams of all texts that are tied to a label beyond chance."""
    words, labels, active = surroundings.words, surroundings.labels, surroundings.active
    min_count = max(params.min_count, int(params.min_share * active.sum()))
    grams = n_grams(words, params.longest_ngram, min_count)
    n_labels = int(labels.max()) + 1
    association = associate(grams.rows, grams.grams, len(grams.phrases), labels, n_labels, active)
    candidates = _candidates(grams.phrases, association, params)
    largest_p = params.association_level / max(association.p.size, 1)
    if len(candidates) == params.max_candidates:
        largest_p = float(association.p[candidates[-1]])
    return Ties(grams, association, candidates, min_count, largest_p)


def weigh_phrases(
    surroundings: Surroundings,
    ties: Ties,
    natural: NaturalWords,
    probability: np.ndarray,
    params: EvidenceParams,
) -> pd.DataFrame:
    """Every phrase that is tied to a label, the least natural first.

    Args:
        surroundings: Of all texts.
        ties: What is tied to labels.
        natural: The natural words of the texts.
        probability: Of each label by the text alone, shape (n_texts, n_labels).
        params: See ``EvidenceParams``.

    Returns:
        ``phrase``; the ``label`` it goes with; ``texts`` that hold it, ``hits`` of them with the
        label; ``natural_share``, how many of the hits would be there without an attack;
        ``association_p``, over all tests; ``expected``, the mean probability of the label by the
        texts; ``residual_z``, how far the label is from that; ``seam``, the share of neighbours
        that meet elsewhere too; ``size``, occurrences that tell about its places; ``score``, how
        natural it looks in standard deviations; ``position``, where most of them stand: ``start``,
        ``end`` or ``random``; ``beyond_texts`` and ``beyond_prior``, see
        ``evidence_of_labels``; ``examples``; ``p_value``, ``weight`` and ``q_value``.
    """
    words, labels, active = surroundings.words, surroundings.labels, surroundings.active
    grams, association, candidates, *_ = ties
    n_active = int(active.sum())
    prior = np.bincount(labels[active], minlength=probability.shape[1]) / n_active
    found: dict[tuple[Phrase, int], list[object]] = {}
    for gram, label in candidates:
        within = active & (labels == label)
        phrase = words.grow(grams.phrases[gram], within, params.grow_share, LONGEST_PHRASE)
        if (phrase, label) in found:
            continue
        _, once = surroundings.occurrences(phrase)
        rows = words.rows[once]
        hit = labels[rows] == label
        by_others = _natural_by_others(hit, prior[label])
        by_trusted = _natural_by_trusted(words, phrase, labels, label, active, int(hit.sum()))
        share = max(by_others, by_trusted.at_least)
        if hit.sum() < FEWEST_HITS or share > params.max_natural_share:
            continue
        together = companions(grams, association, words, phrase, label, candidates, active)
        place = surroundings.place(phrase, label, share, list(together), natural.sizes)
        expected = np.clip(probability[rows, label], CERTAIN, 1 - CERTAIN)
        residual_z = (hit - expected).sum() / np.sqrt((expected * (1 - expected)).sum())
        found[phrase, label] = [
            words.written(phrase),
            label,
            len(rows),
            int(hit.sum()),
            share,
            min(1.0, association.p[gram, label] * ties.n_tests),
            expected.mean(),
            residual_z,
            place.seam.mean(),
            place.size * len(place.seam),
            natural.standard_score(place),
            _position(words, phrase, once[hit]),
            *evidence_of_labels(
                int(hit.sum()),
                len(rows),
                prior[label],
                expected.mean(),
                max(by_others, by_trusted.likely),
            ),
            _examples(words, phrase, once[hit][:N_EXAMPLES]),
        ]
    return _table(list(found.values()))


def _natural_by_others(hit: np.ndarray, prior: float) -> float:
    """The share of the hits that would be there anyway, if the texts with other labels are."""
    odds = prior / max(1 - prior, CERTAIN)
    return min(1.0, float((~hit).sum() * odds / max(hit.sum(), 1)))


class _ByTrusted(NamedTuple):
    """A share of a phrase's hits, and what it is at least: so few trusted texts may hold it."""

    likely: float
    at_least: float


def _natural_by_trusted(
    words: WrittenWords,
    phrase: Phrase,
    labels: np.ndarray,
    label: int,
    active: np.ndarray,
    hits: int,
) -> _ByTrusted:
    """The same, if trusted texts of the label hold the phrase as often as others do."""
    from scipy.stats import chi2

    rows = np.unique(words.rows[words.positions(phrase)])
    trusted = int((~active[rows] & (labels[rows] == label)).sum())
    if not trusted:
        return _ByTrusted(0.0, 0.0)
    own = labels == label
    factor = (own & active).sum() / (own & ~active).sum() / max(hits, 1)
    at_least = chi2.ppf(DOUBT, 2 * trusted) / 2  # the mean of a Poisson distribution (Garwood)
    return _ByTrusted(min(1.0, float(trusted * factor)), min(1.0, float(at_least * factor)))


def evidence_of_labels(
    hits: float, texts: float, prior: float, expected: float, natural_share: float
) -> tuple[float, float]:
    """How much the labels of a phrase's texts ask for an explanation, in two ways.

    Squared z-scores of the label: beyond what the texts explain, and beyond its share of the table
    (all that an attack on texts of the label itself leaves); each times how much is unexplained.
    """
    beyond_texts = _z(hits, texts, expected) ** 2 * max(hits / texts - expected, 0.0) ** 2
    beyond_prior = _z(hits, texts, prior) ** 2 * (1 - natural_share) ** 4
    return beyond_texts, beyond_prior


def _z(hits: float, texts: float, share: float) -> float:
    return float(max(hits - texts * share, 0.0) / np.sqrt(max(texts * share * (1 - share), TINY)))


def shares_of_risk(evidence: np.ndarray) -> np.ndarray:
    """The weights of phrases, of sum 1: both kinds of evidence count the same; (n, 2) -> (n,)."""
    totals = np.maximum(evidence.sum(axis=0), TINY)
    return np.asarray((evidence / totals).mean(axis=1))


def _candidates(
    phrases: list[Phrase], association: Association, params: EvidenceParams
) -> list[tuple[int, int]]:
    """N-grams that are tied to a label beyond chance, surest first, of equal ones the shorter."""
    lengths = np.array([len(phrase) for phrase in phrases], dtype=np.int64)
    framed = np.array([set(phrase) <= {START, END} for phrase in phrases], dtype=bool)
    p, z = association.p, association.z
    wanted = (p * p.size <= params.association_level) & (z > 0) & ~framed[:, None]
    gram, label = np.nonzero(wanted)
    order = np.lexsort((gram, lengths[gram], p[gram, label]))[: params.max_candidates]
    return [(int(gram[i]), int(label[i])) for i in order]


def _table(found: list[list[object]]) -> pd.DataFrame:
    from scipy.stats import norm

    table = pd.DataFrame(found, columns=COLUMNS)
    p = norm.cdf(table["score"].to_numpy(dtype=np.float64))
    weights = shares_of_risk(table[EVIDENCE].to_numpy(dtype=np.float64))
    table = table.assign(p_value=p, weight=weights, q_value=weighted_q_values(p, weights))
    return table.sort_values(["q_value", "p_value"], ignore_index=True)


def _position(words: WrittenWords, phrase: Phrase, begin: np.ndarray) -> str:
    """Whether most occurrences stand at the start or the end of their texts, or anywhere."""
    before = words.ids[begin - (phrase[0] != START)]
    after = words.ids[begin + len(phrase) - (phrase[-1] == END)]
    shares = {"start": (before == START).mean(), "end": (after == END).mean()}
    likely = max(shares, key=lambda place: shares[place])
    return likely if shares[likely] >= AT_EDGE else "random"


def _examples(words: WrittenWords, phrase: Phrase, positions: np.ndarray) -> str:
    """Some occurrences with a few words around them, the phrase in brackets."""
    snippets = []
    for begin in positions.tolist():
        row, end = words.rows[begin], begin + len(phrase)
        first = max(begin - SNIPPET_WORDS, int(np.searchsorted(words.rows, row)))
        last = min(end + SNIPPET_WORDS, int(np.searchsorted(words.rows, row, side="right")))
        left, inner, right = (
            " ".join(words.spelling[word] for word in words.ids[a:b] if word > END)
            for a, b in ((first, begin), (begin, end), (end, last))
        )
        snippets.append(f"{left} [{inner}] {right}".strip())
    return " … ".join(snippets)
