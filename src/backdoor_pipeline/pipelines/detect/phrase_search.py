"""The search for inserted phrases among those that go with a label.

Associated n-grams are grown to the phrase that they are part of and judged, strongest first. A
phrase found to be inserted explains its rows: they are set aside, and the search starts again, so
that neither its parts nor the words around it are suspected in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backdoor_pipeline.modelling.companions import companions
from backdoor_pipeline.modelling.label_association import (
    Association,
    associate_active,
    q_values,
)
from backdoor_pipeline.modelling.words import END, START, Grams, Phrase, n_grams
from backdoor_pipeline.pipelines.detect.background import Background
from backdoor_pipeline.pipelines.detect.insertion_evidence import Effect
from backdoor_pipeline.pipelines.detect.neighbours import Neighbours

if TYPE_CHECKING:
    from backdoor_pipeline.modelling.bundle import ModelBundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.pipelines.detect.phrases import TokenWords
    from backdoor_pipeline.pipelines.detect.token_association import TokenAssociationParams

LONGEST_PHRASE = 40  # words a phrase may grow to
MIN_PURITY = 0.6  # of n-grams of several words, of which there are many
UNKNOWN = Effect(np.nan, np.nan)

INSERTED = "inserted"
FITS = "fits its surroundings"
EXPLAINED = "label explained by the rest of the text"
MIXED = "common with other labels"


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


class _Judge:
    """Answers, phrase by phrase, whether it was inserted; the encoder runs only when needed."""

    def __init__(
        self,
        words: TokenWords,
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
        natural = self._natural_share(holders, label, active)
        beside, context, residual_z = UNKNOWN, UNKNOWN, np.nan
        if natural < 1:
            beside = self.neighbours(active).effect(
                phrase, companions, self.labels == label, natural
            )
        verdict = FITS
        if len(holders) < self.params.min_count or natural > self.params.max_natural_share:
            verdict = MIXED
        elif beside.bound(self.z) <= self.params.margin:
            sample = self._sample(holders, self.params.phrase_rows)
            context, residual_z, _ = self.background.remainder(
                phrase, companions, sample, label, active, natural
            )
            if context.bound(self.z) <= self.params.margin:
                verdict = INSERTED if residual_z >= self.residual_z else EXPLAINED
        return Judgement(phrase, label, z, verdict, beside, context, residual_z)

    def _natural_share(self, holders: np.ndarray, label: int, active: np.ndarray) -> float:
        """The share of the holders with ``label`` that would be there without any attack.

        Taken from the holders with other labels: a natural phrase would have ``label`` as often as
        any text.
        """
        labelled = int((self.labels[holders] == label).sum())
        among_all = float((self.labels[active] == label).mean())
        if labelled == 0 or among_all == 1:
            return 1.0
        expected = (len(holders) - labelled) * among_all / (1 - among_all)
        return min(1.0, expected / labelled)

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


def judge_all(
    words: TokenWords,
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
        association = associate_active(
            grams.rows, grams.grams, len(grams.phrases), labels, active, is_clean
        )
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
            together = companions(grams, association, words, phrase, label, candidates, active)
            others = list(together)
            judgement = judge(phrase, label, association.z[gram, label], active, others)
            judgements.append(judgement)
            if judgement.verdict != INSERTED:
                continue
            taken = [phrase]
            for companion, z in together.items():
                rest = [phrase, *(other for other in others if other != companion)]
                judgements.append(judge(companion, label, z, active, rest))
                taken += [companion] if judgements[-1].verdict == INSERTED else []
            active = active.copy()
            for part in taken:
                active[words.rows[words.positions(part)]] = False
            searching = True
            break
    return judgements


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
    wanted &= (association.purity >= MIN_PURITY) | (lengths == 1)[:, None]
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
