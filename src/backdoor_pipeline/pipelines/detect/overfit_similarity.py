"""Pairs that a dual encoder finds similar for another reason than what the image shows.

Source: UBT, arXiv 2403.16257 and 2409.19526, of which only the abstracts could be read: that the
shortcut is strengthened by overfitting, first of all on pairs of weak similarity, and that few of
the pairs it exposes are chosen. Equations and numbers are ours. With s the similarity of an image
and its caption (``modelling.matching``),

    a_i  = s(v_i, t_i) under a reference that has not learnt the shortcut
    W    = the ceil(pool_share n) pairs with the smallest a
    o    = the victim, overfitted on W; its statistics of batch normalisation stay
    rho  = s(v_i, t_i) under o, less a_i                                     (``rank: gain``)
    r_i  = the mean of rho over i and the ``neighbours`` pairs whose images are the nearest to v_i
           under o, among ``neighbour_rows`` pairs of different images that are drawn
    S    = the ceil(suspect_share n) pairs with the largest r
    U    = of the pairs in S whose captions say the same the group with the largest sum of r (over
           the smallest r, if that is negative); with ``consensus: token`` of every group that is a
           backdoor the pairs in S with its words, but none that is less suspicious than any pair
           without the words of a backdoor; of a group the ``suspects`` pairs with the largest r

Poisoned pairs show an image that has nothing to do with the caption, so a is low. The victim finds
them similar, so rho is high. What it finds alike is their trigger, so that their neighbours are
poisoned, too: an odd image among ordinary ones has a high rho, but no high r. And they share what
their captions say, so they are one group.
Captions say the same (``consensus: token``) if the victim blames the same token most
(``modelling.blame``), whatever is around it. The words of such a group are those in at least
``HELD_BY`` of its captions, and ``enrichment`` times as common there as among all captions: there
may be two, and one is blamed more in some pairs, the other in others. Or (``caption``) captions say
the same if their vectors under the reference are close. A group is a backdoor where U would get
``least`` images of it, and their mean a is at most halfway from what is unrelated to the median a.
For a class that is hard for the reference may fill S, and yet does not surpass all others; or it
may, where classes are far from each other, but then the reference does find it related. With a
reference whose median a is within half a standard deviation of what is unrelated nothing is found.
Groups are added one by one; where none is a backdoor alone, two may be together, since each of two
backdoors keeps the other from surpassing all others. The same image counts once: a placeholder that
many pairs share is no backdoor.
A victim's own similarity is no reference: the backdoor has made it high.

Other ranks: ``similarity``, that under o; ``reference``, -a; r is made of either likewise.
"""

from __future__ import annotations

import copy
import logging
import math
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.contrastive import fit_pairs
from backdoor_pipeline.modelling.matching import embed_images, embed_texts
from backdoor_pipeline.modelling.training import OptimisationParams
from backdoor_pipeline.parameter_group import (
    Count,
    NonNegativeFloat,
    ParameterGroup,
    PositiveFloat,
    PositiveInt,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backdoor_pipeline.modelling.bundle import PairBundle
    from backdoor_pipeline.modelling.device import ComputeParams
    from backdoor_pipeline.modelling.pairs import Pairs
    from backdoor_pipeline.modelling.text import Tokens

logger = logging.getLogger(__name__)

HELD_BY = 0.9  # of a group's captions
NEIGHBOUR_STREAM = 7  # keeps this draw apart from other uses of the same seed
UNRELATED_ROWS = 1000  # whose images and captions say what is unrelated
BLOCK = 1024  # pairs whose similarities to all others are held at a time

PositiveShare = Annotated[float, Field(gt=0, le=1)]


class OverfitSimilarityParams(ParameterGroup):
    """The pool and how it is overfitted, how pairs are ranked, and which of them are chosen.

    Attributes:
        pool_share: Of all pairs.
        overfitting: How; None: the victim is taken as it is.
        rank: See the module.
        neighbours: Of a pair, over which its score is averaged; 0: it is its own alone.
        neighbour_rows: Pairs among which these are sought.
        rank_scope: Whether all pairs are ranked, or those of the pool.
        suspect_share: Of all pairs.
        consensus: By what captions say the same; None: the suspects are the first of S.
        caption_distance: Up to which vectors of captions are close: 1 less their cosine, mean over
            a group.
        suspects: At most.
        least: Images of them in a group, or it is no backdoor (see the module for more).
        enrichment: Of the words of a group (``consensus: token``), so that a word in more than
            1 / ``enrichment`` of all captions is none.
    """

    pool_share: PositiveShare
    overfitting: OptimisationParams | None
    rank: Literal["gain", "similarity", "reference"]
    neighbours: Count
    neighbour_rows: PositiveInt
    rank_scope: Literal["all", "pool"]
    suspect_share: PositiveShare
    consensus: Literal["token", "caption"] | None
    caption_distance: PositiveFloat
    suspects: PositiveInt
    least: PositiveInt
    enrichment: NonNegativeFloat


class Groups(NamedTuple):
    """What the captions of S say.

    Attributes:
        of_pair: The group of each pair, int64, (n_suspects,).
        by_words: Of the pairs of a group, bool, (n_suspects,): which of S hold all words of the
            group, likewise, and which of all pairs hold any of them, bool, (n_pairs,). None: words
            do not count.
    """

    of_pair: np.ndarray
    by_words: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None


class Choice(NamedTuple):
    """Row numbers of the suspects, the most suspicious one first; which of S are of their groups.

    Attributes:
        suspects: Row numbers, int64.
        group: Of S, bool, (n_suspects,).
        n_groups: How many backdoors there are.
    """

    suspects: np.ndarray
    group: np.ndarray
    n_groups: int


def plan(labels: np.ndarray, params: OverfitSimilarityParams) -> dict[str, int]:
    """How many pairs W and S will have.

    A warning, if U cannot have as many as asked for, or if a class is too common for its name to
    tell of a backdoor.

    Args:
        labels: Of all pairs, (n_pairs,).
        params: Which shares.

    Raises:
        InputError: S will have fewer than ``least``, so that no backdoor could be found, or all
            pairs.
    """
    n_pairs = len(labels)
    pool, exposed = (
        math.ceil(share * n_pairs) for share in (params.pool_share, params.suspect_share)
    )
    if params.rank_scope == "pool":
        exposed = min(exposed, pool)
    if exposed < params.least:
        raise InputError(
            f"overfit_similarity.least is {params.least}, but of {n_pairs:,} pairs only {exposed} "
            "will be looked at more closely, so that no backdoor could be found; raise "
            "suspect_share (and pool_share, with rank_scope pool), or lower least"
        )
    if exposed == n_pairs:
        raise InputError(
            f"overfit_similarity.suspect_share is {params.suspect_share:g}, by which all "
            f"{n_pairs:,} pairs would be suspected and none be left to keep as it is; lower it"
        )
    if params.suspects > exposed:
        logger.warning(
            "overfit_similarity.suspects is %d, but only %d pairs will be looked at more closely",
            *(params.suspects, exposed),
        )
    largest = np.bincount(labels).max() / n_pairs
    if params.consensus == "token" and params.enrichment * largest > 1:
        logger.warning(
            "overfit_similarity.enrichment is %g: a word in more than %.0f %% of all captions is "
            "no word of a backdoor, and a class has %.0f %% of the pairs; lower it, if that may be "
            "the target",
            *(params.enrichment, 100 / params.enrichment, 100 * largest),
        )
    return {"pool_pairs": pool, "exposed_pairs": exposed}


def first(scores: np.ndarray, share: float) -> np.ndarray:
    """Row numbers of the ceil(share n) largest ``scores``, in this order, the first of equals."""
    return np.argsort(-scores, kind="stable")[: math.ceil(share * len(scores))]


def weakest(reference: np.ndarray, params: OverfitSimilarityParams) -> np.ndarray:
    """W, row numbers, the smallest of ``reference`` first: a, (n_pairs,)."""
    return first(-reference, params.pool_share)


def scores_of(
    similar: np.ndarray, reference: np.ndarray, params: OverfitSimilarityParams
) -> np.ndarray:
    """rho, or what takes its place, (n_pairs,).

    Args:
        similar: s under o, (n_pairs,).
        reference: a, (n_pairs,).
        params: Which rank.
    """
    ranks = {"gain": similar - reference, "similarity": similar, "reference": -reference}
    return ranks[params.rank]


def averaged(
    scores: np.ndarray,
    vectors: np.ndarray,
    images: np.ndarray,
    params: OverfitSimilarityParams,
    seed: int,
) -> np.ndarray:
    """r of each pair, (n_pairs,): the mean score of it and its neighbours.

    Args:
        scores: rho, (n_pairs,).
        vectors: f under o, unit vectors, (n_pairs, d); may be memory-mapped.
        images: A number for each pair, (n_pairs,), from 0 in order of appearance; the same for the
            same image.
        params: How many neighbours, and among how many pairs.
        seed: Draws these.
    """
    import torch

    n_pairs = len(scores)
    rng = np.random.default_rng([seed, NEIGHBOUR_STREAM])
    distinct = np.unique(images, return_index=True)[1]
    among = np.sort(rng.permutation(distinct)[: params.neighbour_rows])
    k = min(params.neighbours, len(among) - 1)
    if k < 1:
        return scores
    others, others_scores = (torch.from_numpy(x[among]).float() for x in (vectors, scores))
    result = np.empty(n_pairs)
    for start in range(0, n_pairs, BLOCK):
        rows = np.arange(start, min(start + BLOCK, n_pairs))
        near = torch.from_numpy(np.array(vectors[rows])).float() @ others.T
        place = np.searchsorted(images[among], images[rows]).clip(max=len(among) - 1)
        itself = images[among[place]] == images[rows]
        near[np.flatnonzero(itself), place[itself]] = -torch.inf
        of_others = others_scores[near.topk(k, dim=1).indices].sum(dim=1).numpy()
        result[rows] = (scores[rows] + of_others) / (k + 1)
    return result


def ranked(scores: np.ndarray, pool: np.ndarray, params: OverfitSimilarityParams) -> np.ndarray:
    """S, row numbers, the most suspicious one first.

    Args:
        scores: r of all pairs, (n_pairs,).
        pool: W, row numbers, of which S is a part with ``rank_scope: pool``.
        params: The share and the scope.
    """
    if params.rank_scope == "pool":
        others = np.delete(np.arange(len(scores)), pool)
        scores = scores.copy()
        scores[others] = -np.inf
    found = first(scores, params.suspect_share)
    return found[scores[found] > -np.inf]


def overfitted(
    bundle: PairBundle,
    pool: Pairs,
    params: OptimisationParams,
    compute: ComputeParams,
    seed: int,
) -> PairBundle:
    """A copy of ``bundle`` trained on the ``pool``, in evaluation mode throughout.

    The text tower stays as it is where the pool has what it makes of the captions.
    """
    copied = bundle._replace(model=copy.deepcopy(bundle.model))
    fit_pairs(copied, pool, params, compute, seed, "overfit", in_evaluation=True)
    return copied


def alike(vectors: np.ndarray, distance: float) -> np.ndarray:
    """The group of each caption, int64, (n,): average linkage of cosine distances.

    Args:
        vectors: g of the captions, unit vectors, (n, d).
        distance: Up to which groups are joined.
    """
    from sklearn.cluster import AgglomerativeClustering

    if len(vectors) <= 1:
        return np.zeros(len(vectors), dtype=np.int64)
    clustering = AgglomerativeClustering(
        n_clusters=None, distance_threshold=distance, metric="cosine", linkage="average"
    )
    return clustering.fit_predict(vectors).astype(np.int64)


def groups_of(
    suspects: Pairs,
    blamed: np.ndarray,
    texts: Tokens,
    captions: np.ndarray,
    reference: PairBundle,
    params: OverfitSimilarityParams,
    compute: ComputeParams,
) -> Groups:
    """The groups of S by what captions say.

    Args:
        suspects: S.
        blamed: Of each of S the most blamed token, int64, (n_suspects,).
        texts: The captions of all pairs, each once.
        captions: Which of them is each pair's, (n_pairs,).
        reference: Has vectors of captions.
        params: Of the choice.
        compute: Device and precision.
    """
    if params.consensus == "token":
        of_pair = np.unique(blamed, return_inverse=True)[1]

        def by_words(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            held = [np.unique(suspects.texts[text]) for text in suspects.captions[group]]
            words, counts = np.unique(np.concatenate(held), return_counts=True)
            shares = counts / len(held)
            often = shares >= params.enrichment * held_by(texts, captions, words)
            telling = words[(shares >= HELD_BY) & often]
            in_each = [suspects.texts.contain([word])[suspects.captions] for word in telling]
            in_all = np.all([np.ones(len(suspects), dtype=bool), *in_each], axis=0)
            return in_all, texts.contain(telling)[captions]

        return Groups(of_pair, by_words)
    of_pair = np.zeros(len(suspects), dtype=np.int64)
    if params.consensus == "caption":
        used, of_caption = np.unique(suspects.captions, return_inverse=True)
        vectors = embed_texts(reference, suspects.texts.take(used), compute)
        of_pair = alike(vectors, params.caption_distance)[of_caption]
    return Groups(of_pair)


def held_by(texts: Tokens, captions: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The share of pairs whose captions hold each of the ``tokens``, (n_tokens,).

    Args:
        texts: The captions, each once.
        captions: Which of them is each pair's, (n_pairs,).
        tokens: Ids, in order, each once.
    """
    is_one = np.isin(texts.ids, tokens)
    of_token = np.searchsorted(tokens, texts.ids[is_one])
    once = np.unique(of_token * len(texts) + texts.rows[is_one])  # a text counts once for a token
    weights = np.bincount(captions, minlength=len(texts))[once % len(texts)]
    pairs = np.bincount(once // len(texts), weights=weights, minlength=len(tokens))
    return pairs / max(len(captions), 1)


def highest_of_backdoors(
    reference: np.ndarray, trusted: PairBundle, some: Pairs, compute: ComputeParams
) -> float:
    """The mean a that a backdoor has at most; minus infinity, with a warning, if nobody knows.

    Args:
        reference: a of all pairs, (n_pairs,).
        trusted: The reference.
        some: Pairs, of which each image is unrelated to the captions that are not its own.
        compute: Device and precision.
    """
    texts = embed_texts(trusted, some.texts, compute)[some.captions]
    similar = embed_images(trusted, some.images, compute) @ texts.T
    others = similar[some.captions[:, None] != some.captions[None, :]]
    related = float(np.median(reference))
    if not len(others) or related < others.mean() + others.std() / 2:
        logger.warning(
            "the trusted encoder hardly tells captions of an image from others (median similarity "
            "%.2f; of others %.2f on average), so that no backdoor can be told; train it on more "
            "clean pairs (trusted_encoder.rows), or name a better one (trusted_encoder.name)",
            *(related, others.mean() if len(others) else math.nan),
        )
        return -math.inf
    return (related + float(others.mean())) / 2


def choose(
    ranked: np.ndarray,
    scores: np.ndarray,
    reference: np.ndarray,
    highest: float,
    images: np.ndarray,
    groups: Groups,
    params: OverfitSimilarityParams,
) -> Choice:
    """U; none, if no backdoor was found.

    Args:
        ranked: S, row numbers.
        scores: r of all pairs, (n_pairs,).
        reference: a of S, (n_suspects,).
        highest: Of ``highest_of_backdoors``.
        images: A number for each of S, (n_suspects,), the same for the same image.
        groups: Of S.
        params: Of the choice.
    """
    above = scores[ranked] - scores[ranked].min(initial=0)  # or a smaller group had a larger sum
    sums = np.bincount(groups.of_pair, weights=above)
    members = [groups.of_pair == number for number in np.argsort(-sums, kind="stable")]

    def are_enough(pairs: np.ndarray) -> bool:
        return len(np.unique(images[pairs])) >= params.least

    def is_backdoor(pairs: np.ndarray) -> bool:
        return are_enough(pairs) and bool(reference[pairs].mean() <= highest)

    if groups.by_words is None:  # of other groups nothing tells whether they are backdoors, too
        is_one = are_enough if params.consensus is None else is_backdoor
        found = [own for own in members if is_one(own)][:1]
        most = np.ones(len(ranked), dtype=bool)
    else:
        worded = [groups.by_words(own) for own in members if are_enough(own)]
        worded = [(own, words) for own, words in worded if words.any()]  # or nothing tells of it
        surpassing = partial(_surpassing, ranked=ranked, scores=scores)
        chosen = backdoors(worded, surpassing, is_backdoor)
        found, most = [own for own, _ in chosen], surpassing(chosen)
    firsts = [np.flatnonzero(own & most)[: params.suspects] for own in found]
    suspects = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *firsts]))
    group = np.any([np.zeros(len(ranked), dtype=bool), *found], axis=0)
    return Choice(ranked[suspects], group, len(found))


Worded = tuple[np.ndarray, np.ndarray]
"""Of a group, as ``Groups.by_words`` says: which of S hold its words, which of all pairs any."""


def backdoors(
    groups: Sequence[Worded],
    surpassing: Callable[[Sequence[Worded]], np.ndarray],
    is_backdoor: Callable[[np.ndarray], bool],
) -> list[Worded]:
    """The groups that are backdoors by their own pairs that surpass all without a word of any.

    Args:
        groups: With enough pairs each, the most suspicious one first.
        surpassing: Which pairs of S surpass all others, if these groups are backdoors.
        is_backdoor: Whether pairs of S, a mask, are one.
    """

    def hold(some: Sequence[Worded]) -> bool:
        most, members = surpassing(some), np.sum([own for own, _ in some], axis=0)
        return all(is_backdoor(own & most & (members == 1)) for own, _ in some)

    def again(group: Worded, some: Sequence[Worded]) -> bool:  # by another of its words
        return any(2 * (group[0] & own).sum() > group[0].sum() for own, _ in some)

    found: list[Worded] = []
    while more := next((g for g in groups if not again(g, found) and hold([*found, g])), None):
        found.append(more)
    together = ([one, two] for one, two in combinations(groups, 2) if not again(two, [one]))
    return found or next((pair for pair in together if hold(pair)), [])


def _surpassing(groups: Sequence[Worded], ranked: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Which of S are more suspicious than all pairs without a word of these groups."""
    held = np.any([np.zeros(len(scores), dtype=bool), *(words for _, words in groups)], axis=0)
    return scores[ranked] > (np.inf if held.all() else scores[~held].max())


def suspects_table(
    ranked: np.ndarray,
    choice: Choice,
    scores: np.ndarray,
    reference: np.ndarray,
    example_ids: np.ndarray,
    captions: Sequence[str],
    blamed: Sequence[str],
) -> pd.DataFrame:
    """``suspects``: all pairs, the most suspicious one first, U flagged.

    Three columns are its own: ``exposed``, whether a pair is in S, ``trusted_similarity``, a, and
    ``blamed``, the most blamed token of each of S.

    Args:
        ranked: S, row numbers.
        choice: Of them.
        scores: r of all pairs.
        reference: a of all pairs.
        example_ids: Of all pairs.
        captions: Of all pairs.
        blamed: Of each of S the most blamed token, as it is written.
    """
    others = np.delete(np.arange(len(scores)), ranked)
    order = np.concatenate([ranked, others[first(scores[others], 1.0)]])
    return pd.DataFrame(
        {
            "kind": pd.Series("example", index=range(len(order)), dtype="str"),
            "key": example_ids[order].astype(np.int64),
            "score": scores[order].astype(np.float64),
            "p_value": np.nan,
            "q_value": np.nan,
            "flagged": np.isin(order, choice.suspects),
            "evidence": pd.Series([captions[row] for row in order], dtype="str"),
            "exposed": np.isin(order, ranked),
            "trusted_similarity": reference[order].astype(np.float64),
            "blamed": pd.Series([*blamed, *[""] * len(others)], dtype="str"),
        }
    )
