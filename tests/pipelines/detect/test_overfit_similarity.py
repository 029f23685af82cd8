"""Overfit similarity: ranks, ties, the choice of one group, and what an overfitted model keeps."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.dual_encoders import new_dual_encoder
from backdoor_pipeline.modelling.matching import matching_loss, similarities, text_states
from backdoor_pipeline.modelling.networks.matcher import Matcher
from backdoor_pipeline.modelling.pairs import read_pairs
from backdoor_pipeline.modelling.pixels import ImageFormat
from backdoor_pipeline.modelling.text import end_to_end
from backdoor_pipeline.modelling.training import OptimisationParams
from backdoor_pipeline.pipelines.detect.overfit_similarity import (
    Groups,
    OverfitSimilarityParams,
    alike,
    averaged,
    choose,
    first,
    groups_of,
    held_by,
    highest_of_backdoors,
    overfitted,
    ranked,
    scores_of,
    suspects_table,
    weakest,
)
from backdoor_pipeline.schemas import SUSPECTS
from tiny import DUAL_ENCODERS, make_pairs, tiny_dual_encoder

CPU = ComputeParams(device="cpu", precision="fp32")
PARAMS = OverfitSimilarityParams(
    pool_share=0.5,
    overfitting=None,
    rank="gain",
    neighbours=0,
    neighbour_rows=100,
    rank_scope="all",
    suspect_share=0.3,
    consensus="token",
    caption_distance=0.3,
    suspects=3,
    least=2,
    enrichment=3.0,
)
AXES = np.eye(3, dtype=np.float32)


@given(
    scores=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=30),
    share=st.floats(0.01, 1.0),
)
def test_ubt_11_4_the_largest_in_order_and_the_first_of_equals(scores, share) -> None:
    found = first(np.array(scores), share)
    assert len(found) == math.ceil(share * len(scores))
    pairs = [(-scores[row], row) for row in found]
    assert pairs == sorted((-score, row) for row, score in enumerate(scores))[: len(found)]


@pytest.mark.parametrize(
    ("rank", "expected"), [("gain", [3, 0]), ("similarity", [1, 3]), ("reference", [2, 3])]
)
def test_ubt_11_4_ranks(rank, expected) -> None:
    similar, reference = np.array([0.5, 0.9, 0.2, 0.8]), np.array([0.2, 0.8, 0.0, 0.1])
    params = PARAMS.model_copy(update={"rank": rank, "suspect_share": 0.5})
    scores = scores_of(similar, reference, params)
    assert ranked(scores, np.arange(4), params).tolist() == expected


def test_ubt_11_4_the_pool_is_what_the_reference_finds_least_similar() -> None:
    reference = np.array([0.3, -0.1, 0.3, 0.0, 0.9])
    of_share = {share: PARAMS.model_copy(update={"pool_share": share}) for share in (0.3, 0.55, 1)}
    found = {share: weakest(reference, params).tolist() for share, params in of_share.items()}
    assert found == {0.3: [1, 3], 0.55: [1, 3, 0], 1: [1, 3, 0, 2, 4]}


def test_ubt_11_4_suspects_may_have_to_be_of_the_pool() -> None:
    scores, pool = np.array([0.1, 0.9, 0.5, 0.3]), np.array([3, 0])
    params = PARAMS.model_copy(update={"rank_scope": "pool", "suspect_share": 1.0})
    assert ranked(scores, pool, params).tolist() == [3, 0]
    few = params.model_copy(update={"suspect_share": 0.2})
    assert ranked(scores, pool, few).tolist() == [3]
    assert scores.tolist() == [0.1, 0.9, 0.5, 0.3]


class TestNeighbours:
    RNG = np.random.default_rng(0)
    SCORES = RNG.normal(size=30)
    VECTORS = RNG.normal(size=(30, 4)).astype(np.float32)

    def of(self, seed=0, vectors=None, images=None, **changes):
        images = np.arange(30) if images is None else images
        vectors = self.VECTORS if vectors is None else vectors
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return averaged(self.SCORES, unit, images, PARAMS.model_copy(update=changes), seed)

    @pytest.mark.parametrize("block", [7, 1024])
    def test_a_score_is_the_mean_over_a_pair_and_its_neighbours(self, block, monkeypatch) -> None:
        monkeypatch.setattr("backdoor_pipeline.pipelines.detect.overfit_similarity.BLOCK", block)
        unit = self.VECTORS / np.linalg.norm(self.VECTORS, axis=1, keepdims=True)
        for row, value in enumerate(self.of(neighbours=5)):
            near = sorted(set(range(30)) - {row}, key=lambda other: -unit[row] @ unit[other])[:5]
            assert value == pytest.approx(self.SCORES[[row, *near]].mean(), abs=1e-6)

    def test_without_neighbours_it_is_its_own(self) -> None:
        assert self.of(neighbours=0).tolist() == self.SCORES.tolist()
        assert self.of(neighbours=5, neighbour_rows=1).tolist() == self.SCORES.tolist()

    def test_more_than_there_are_are_all(self) -> None:
        np.testing.assert_allclose(self.of(neighbours=99), self.SCORES.mean(), atol=1e-6)

    def test_they_are_sought_among_pairs_that_are_drawn(self) -> None:
        few, again, other = (self.of(seed, neighbours=2, neighbour_rows=6) for seed in (0, 0, 1))
        assert few.tolist() == again.tolist()
        assert few.tolist() != other.tolist()
        assert few.tolist() != self.of(neighbours=2).tolist()

    def test_copies_of_an_image_are_no_neighbours(self) -> None:
        images, vectors = np.concatenate([np.arange(20), np.arange(10)]), self.VECTORS.copy()
        vectors[20:] = vectors[:10]
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for row, value in enumerate(self.of(vectors=vectors, images=images, neighbours=3)):
            others = set(range(20)) - {images[row]}
            near = sorted(others, key=lambda other: -unit[row] @ unit[other])[:3]
            assert value == pytest.approx(self.SCORES[[row, *near]].mean(), abs=1e-6)

    def test_odd_pairs_that_are_alike_come_before_one_that_is_alone(self) -> None:
        vectors = np.repeat(np.eye(3, 4), 10, axis=0)
        scores = np.zeros(30)
        scores[[3, 10, 11, 12, 13, 14]] = [4.0, *[1.0] * 5]
        params = PARAMS.model_copy(update={"neighbours": 4})
        vectors[10:15] += 0.1 * np.eye(1, 4, 3)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        found = averaged(scores, unit, np.arange(30), params, 0)
        assert set(first(found, 5 / 30)) == {10, 11, 12, 13, 14}


class TestChoice:
    SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    GROUPS = np.array([0, 1, 2, 1, 2, 2])  # sums: 0.9, 1.4, 1.6
    RANKED = np.arange(6)

    def of(self, ranked=None, groups=None, by_words=None, images=None, reference=None, **changes):
        ranked = self.RANKED if ranked is None else ranked
        images = np.arange(8) if images is None else images
        groups = Groups(self.GROUPS if groups is None else groups, by_words)
        reference = np.zeros(8) if reference is None else reference
        of_ranked = (reference[ranked], 0.0, images[ranked], groups)
        return choose(ranked, self.SCORES, *of_ranked, PARAMS.model_copy(update=changes))

    def words_of(self, group) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of a group hold its words, no other does."""
        return group, np.isin(np.arange(8), self.RANKED[group])

    def test_ubt_11_4_the_group_with_the_largest_sum_the_most_suspicious_first(self) -> None:
        found = self.of()
        assert found.suspects.tolist() == [2, 4, 5]
        assert found.group.tolist() == [False, False, True, False, True, True]
        assert self.of(suspects=2).suspects.tolist() == [2, 4]
        assert set(found.suspects) <= set(self.RANKED)
        others = np.array([7, 6, 5, 4, 3, 2])  # rows, not places
        assert self.of(ranked=others).suspects.tolist() == [5, 3, 2]

    def test_ubt_11_1_a_group_that_is_too_small_is_no_backdoor(self) -> None:
        found = self.of(least=4)
        assert not found.n_groups
        assert not len(found.suspects)
        assert not found.group.any()

    def test_the_group_is_the_largest_in_suspicion_not_in_number(self) -> None:
        scores = np.array([-0.1, -0.1, -0.2, -0.2, -0.2, -0.9, -0.9, -0.9])  # rank: reference
        groups = Groups(np.array([0, 0, 1, 1, 1]))
        of_ranked = (-scores[:5], 1.0, np.arange(5), groups)
        assert choose(np.arange(5), scores, *of_ranked, PARAMS).suspects.tolist() == [0, 1]

    def test_two_backdoors_that_are_alike_are_found_together(self) -> None:
        groups = np.array([1, 2, 1, 2, 1, 2])  # of each, every pair is below one of the other
        found = self.of(groups=groups, by_words=self.words_of)
        assert found.n_groups == 2
        assert found.suspects.tolist() == [0, 1, 2, 3, 4, 5]
        assert found.group.all()
        assert self.of(groups=groups, by_words=self.words_of, suspects=2).suspects.tolist() == [
            *(0, 1, 2, 3)
        ]
        assert not self.of(groups=groups, by_words=self.words_of, least=4).n_groups

    def test_a_weaker_backdoor_is_found_behind_a_stronger_one(self) -> None:
        groups = np.array([1, 1, 1, 2, 2, 2])
        found = self.of(groups=groups, by_words=self.words_of, least=3)
        assert found.n_groups == 2
        assert found.suspects.tolist() == [0, 1, 2, 3, 4, 5]

    def test_classes_that_are_hard_are_no_backdoors(self) -> None:
        groups = np.array([1, 2, 3, 1, 2, 3])  # no two of them have two pairs above the third
        assert not self.of(groups=groups, by_words=self.words_of).n_groups

    def test_a_backdoor_is_found_behind_a_class_that_is_hard(self) -> None:
        groups = np.array([1, 1, 2, 3, 2, 2])  # the larger sum is that of the second
        found = self.of(groups=groups, by_words=self.words_of)
        assert found.n_groups == 1
        assert found.suspects.tolist() == [0, 1]

    def test_less_suspicious_than_a_pair_without_its_words_is_none(self) -> None:
        groups = np.array([0, 0, 2, 3, 0, 0])
        found = self.of(groups=groups, by_words=self.words_of)
        assert found.suspects.tolist() == [0, 1]
        assert found.group.tolist() == [True, True, False, False, True, True]

    def test_captions_without_a_word_of_their_own_are_no_backdoor(self) -> None:
        def by_words(group) -> tuple[np.ndarray, np.ndarray]:
            return np.ones(6, dtype=bool), np.zeros(8, dtype=bool)

        assert not self.of(by_words=by_words, least=1).n_groups

    def test_nor_are_they_a_second_one(self) -> None:
        def by_words(group) -> tuple[np.ndarray, np.ndarray]:
            if group[0]:
                return group, np.arange(8) < 3
            return np.ones(6, dtype=bool), np.zeros(8, dtype=bool)

        groups = np.array([1, 1, 1, 2, 2, 2])
        found = self.of(groups=groups, by_words=by_words)
        assert found.n_groups == 1
        assert found.group.tolist() == [True] * 3 + [False] * 3

    def test_words_that_all_pairs_hold_are_of_no_backdoor(self) -> None:
        def by_words(group) -> tuple[np.ndarray, np.ndarray]:
            return group, np.ones(8, dtype=bool)

        assert not self.of(by_words=by_words, least=1).n_groups

    def test_a_backdoor_of_two_words_is_one(self) -> None:
        def by_words(group) -> tuple[np.ndarray, np.ndarray]:
            return np.ones(6, dtype=bool), np.arange(8) < 6

        found = self.of(by_words=by_words, suspects=9)
        assert found.n_groups == 1
        assert found.suspects.tolist() == [0, 1, 2, 3, 4, 5]

    @pytest.mark.parametrize("consensus", ["token", "caption"])
    def test_what_the_reference_finds_related_is_no_backdoor(self, consensus) -> None:
        groups = np.array([1, 1, 1, 2, 3, 4])
        by_words = self.words_of if consensus == "token" else None
        given = {"groups": groups, "by_words": by_words, "consensus": consensus}
        reference = np.array([-0.5, 0.3, 0.2, *[0.9] * 5])  # the first three have a mean of 0
        assert self.of(**given, reference=reference).n_groups == 1
        assert not self.of(**given, reference=reference + 0.01).n_groups

    def test_an_image_counts_once(self) -> None:
        groups = np.array([1, 1, 1, 2, 3, 4])
        assert self.of(groups=groups, by_words=self.words_of, least=3).n_groups == 1
        copies = np.array([0, 0, 1, 2, 3, 4, 5, 6])
        assert not self.of(groups=groups, by_words=self.words_of, least=3, images=copies).n_groups

    def test_captions_that_are_close_tell_of_one_backdoor_alone(self) -> None:
        found = self.of(consensus="caption")
        assert found.n_groups == 1
        assert found.suspects.tolist() == [2, 4, 5]

    def test_of_nothing_nothing(self) -> None:
        assert not len(self.of(np.arange(0), np.arange(0)).suspects)

    def test_captions_that_are_close_are_one_group(self) -> None:
        vectors = np.stack([AXES[0], (AXES[0] + 0.3 * AXES[1]) / math.hypot(1, 0.3), AXES[2]])
        near = alike(vectors, 0.3)
        assert near[0] == near[1] != near[2]
        assert len(set(alike(vectors, 0.01))) == 3
        assert alike(AXES[:1], 0.3).tolist() == [0]
        assert alike(AXES[:0], 0.3).tolist() == []

    def test_the_table_is_one_of_suspects(self) -> None:
        ids, captions = np.arange(8) + 10, [f"caption {i}" for i in range(8)]
        trusted = np.linspace(-0.5, 0.2, 8)
        of_pairs = (self.SCORES, trusted, ids, captions)
        table = suspects_table(self.RANKED, self.of(), *of_pairs, list("uvwxyz"))
        SUSPECTS.validate(table)
        assert table["key"].tolist()[:6] == [10, 11, 12, 13, 14, 15]
        assert sorted(table["key"]) == ids.tolist()
        assert table.loc[table["flagged"], "key"].tolist() == [12, 14, 15]
        assert table["evidence"][2] == "caption 2"
        assert table["blamed"].tolist() == [*"uvwxyz", "", ""]
        assert table["exposed"].tolist() == [True] * 6 + [False] * 2
        np.testing.assert_allclose(table["trusted_similarity"], trusted[table["key"] - 10])


@pytest.fixture(params=[*DUAL_ENCODERS, "resnet9"])
def bundle(request, base_model):
    if request.param == "resnet9":
        form = ImageFormat(16, 16, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
        return new_dual_encoder("resnet9", base_model(), form, 0.125, 24, 0)
    return tiny_dual_encoder(request.param)


@pytest.fixture
def pairs(bundle):
    rows = make_pairs(["a film of the city", "the story", "one actor"], 12)
    return read_pairs(bundle, rows, 16)


def test_ubt_11_3_similarities_equal_a_loop(bundle, pairs, monkeypatch) -> None:
    monkeypatch.setattr("backdoor_pipeline.modelling.prediction.BATCH_ROWS", 5)
    found = similarities(bundle, pairs, CPU)
    backwards = similarities(bundle, pairs.take(np.arange(12)[::-1]), CPU)[::-1]
    np.testing.assert_allclose(backwards, found, atol=1e-5)
    scale = bundle.model.logit_scale.exp().item()
    for row, value in enumerate(found):
        one = pairs.take(np.array([row]))
        pixels = one.images.collate(np.array([0]), torch.device("cpu"))
        texts = one.texts.collate(one.captions, torch.device("cpu"))
        with torch.no_grad():
            alone = bundle.model(**pixels, **texts).logits_per_image.item() / scale
        assert value == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize(("consensus", "n_groups"), [("token", 2), ("caption", 3), (None, 1)])
def test_groups_are_of_what_captions_say(bundle, pairs, consensus, n_groups) -> None:
    the, actor = bundle.tokenizer.convert_tokens_to_ids(["the", "actor"])
    params = PARAMS.model_copy(update={"consensus": consensus, "caption_distance": 1e-6})
    rows = np.arange(1, 10)
    blamed = np.array([the, the, actor])[pairs.captions[rows]]
    every = (pairs.texts, pairs.captions)
    groups = groups_of(pairs.take(rows), blamed, *every, bundle, params, CPU)
    assert len(groups.of_pair) == 9
    assert set(groups.of_pair) == set(range(n_groups))
    for caption in range(3):
        assert len(set(groups.of_pair[pairs.captions[rows] == caption])) == 1
    if consensus == "token":
        assert groups.of_pair[:3].tolist() == [0, 1, 0]  # of captions 1, 2 and 0


@given(
    texts=st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=6),
    drawn=st.lists(st.integers(0, 99), max_size=12),
    tokens=st.sets(st.integers(0, 7), max_size=5),
)
def test_shares_of_tokens_equal_a_loop(texts, drawn, tokens) -> None:
    captions = np.array([number % len(texts) for number in drawn], dtype=np.int64)
    ids = np.array(sorted(tokens), dtype=np.int64)
    found = held_by(end_to_end([np.array(text) for text in texts], 0), captions, ids)
    expected = [np.mean([token in texts[c] for c in captions]) if drawn else 0 for token in ids]
    np.testing.assert_allclose(found, expected)


def test_the_words_of_a_group_are_in_its_captions_more_than_elsewhere(bundle) -> None:
    captions = ["the city", "a film of the city", "the city a story", "the house", "my house"]
    pairs = read_pairs(bundle, make_pairs(captions, 5), 16)
    of_s = np.array([2, 1, 3, 0])
    city, the = bundle.tokenizer.convert_tokens_to_ids(["city", "the"])
    params = PARAMS.model_copy(update={"enrichment": 1.5})
    groups = groups_of(
        *(pairs.take(of_s), np.array([city, city, the, the])),
        *(pairs.texts, pairs.captions, bundle, params, CPU),
    )
    members, held = groups.by_words(np.array([True, True, False, False]))
    assert members.tolist() == [True, True, False, False]  # "city" and "a"
    assert held.tolist() == [True, True, True, False, False]
    members, held = groups.by_words(np.array([True, True, False, True]))
    assert members.tolist() == [True, True, False, True]  # "city" alone
    assert held.tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("frozen", [True, False])
def test_ubt_11_8_overfitting_changes_a_copy_and_no_statistics(bundle, pairs, frozen) -> None:
    training = OptimisationParams(
        epochs=4,
        learning_rate=1e-3,
        batch_size=4,
        weight_decay=0.0,
        warmup_share=0.0,
        max_gradient_norm=1.0,
    )
    if frozen:
        pairs = replace(pairs, states=text_states(bundle, pairs.texts, CPU))
    before = {name: tensor.clone() for name, tensor in bundle.model.state_dict().items()}
    statistics = {name: tensor.clone() for name, tensor in bundle.model.named_buffers()}
    result = overfitted(bundle, pairs, training, CPU, 0)
    after = result.model.state_dict()
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    changed = {
        name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])
    }
    assert {"vision_model", "visual_projection", "text_projection"} <= changed
    assert ("text_model" in changed) != frozen
    for name, buffer in result.model.named_buffers():
        assert torch.equal(buffer, statistics[name]), name
    batch = pairs.collate(np.arange(12), torch.device("cpu"))
    with torch.no_grad():
        losses = [
            matching_loss(Matcher(of.model)(**batch).logits, torch.from_numpy(pairs.captions))
            for of in (bundle, result)
        ]
    assert losses[1] < losses[0]
    assert not result.model.training
    assert all(p.requires_grad for p in result.model.parameters())


def test_two_targets_as_suspicious_are_two_backdoors(bundle) -> None:
    captions = ["a city", "the story", *["a film", "the actor", "one house", "my film"] * 3]
    pairs = read_pairs(bundle, make_pairs(captions, 56), 16)
    city, story = bundle.tokenizer.convert_tokens_to_ids(["city", "story"])
    scores = np.linspace(0.1, 0.0, 56)
    poisoned = np.flatnonzero(np.arange(56) % 14 < 2)  # 4 of each, in turn
    scores[poisoned] = np.linspace(1.0, 0.9, 8)
    params = PARAMS.model_copy(update={"least": 4, "suspects": 9})
    of_s = (pairs.take(poisoned), np.array([city, story] * 4))
    groups = groups_of(*of_s, pairs.texts, pairs.captions, bundle, params, CPU)
    found = choose(poisoned, scores, np.zeros(8), 0.0, np.arange(8), groups, params)
    assert found.n_groups == 2
    assert found.suspects.tolist() == poisoned.tolist()


def test_a_backdoor_is_at_most_halfway_to_what_is_related(
    bundle, pairs, monkeypatch, caplog
) -> None:
    module = "backdoor_pipeline.pipelines.detect.overfit_similarity"
    texts = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=np.float32)
    monkeypatch.setattr(f"{module}.embed_texts", lambda *_: texts)
    monkeypatch.setattr(f"{module}.embed_images", lambda *_: texts[pairs.captions])
    unrelated = np.array([0.0, -1.0, 0.0])  # each pair of texts as often
    related = np.array([0.8, 0.5, 0.9])
    found = highest_of_backdoors(related, bundle, pairs, CPU)
    assert found == pytest.approx((0.8 + unrelated.mean()) / 2)
    knows_nothing = np.full(3, unrelated.mean() + unrelated.std() / 2 - 0.01)
    assert not caplog.text
    assert highest_of_backdoors(knows_nothing, bundle, pairs, CPU) == -math.inf
    assert "the trusted encoder hardly tells captions of an image from others" in caplog.text
