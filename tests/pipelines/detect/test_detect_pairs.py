"""The steps of UBT before the suspects are chosen, and the nodes that make them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.contrastive import pairs_to_train
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.matching import embed_images, similarities
from backdoor_pipeline.modelling.pairs import read_pairs
from backdoor_pipeline.pipelines.detect import nodes, overfit_similarity, trusted_encoder
from backdoor_pipeline.schemas import PAIR_RANKS, PAIR_SIMILARITY, SUSPECTS
from tiny import DUAL_ENCODERS, make_pairs, save_tiny_dual_encoder, tiny_dual_encoder

CPU = ComputeParams(device="cpu", precision="fp32")
CAPTIONS = ["a film of the city", "the story", "one actor", "my house"]

DRAWN = {"model.name": "minilm", "model.tower": "resnet9", "model.width": 0.0625}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return make_pairs(CAPTIONS, 40, 12, 8)


@pytest.fixture
def make(make_parameters, tmp_path):
    def make(**changes):
        folder = tmp_path / "clip"
        if not folder.exists():
            save_tiny_dual_encoder(folder, "clip")
        own = {"model.name": str(folder), "model.tower": None, "model.max_length": 16}
        own |= {"trusted_encoder.rows": 8, "trusted_encoder.optimisation.epochs": 1}
        own |= {
            "overfit_similarity.neighbours": 3,
            "overfit_similarity.suspect_share": 0.3,
            "overfit_similarity.least": 2,
        }
        return make_parameters(modality="pair", **own | changes)

    return make


class TestTrustedEncoder:
    def test_its_pairs_are_dev_rows(self, rows, make) -> None:
        p = make(**DRAWN)
        one, again, other = (
            trusted_encoder.draw(rows, p.trusted_encoder, p.model, seed) for seed in (0, 0, 1)
        )
        assert len(one) == 8
        assert set(one["split"]) == {"dev"}
        assert one.equals(again)
        assert not one.equals(other)

    def test_more_than_there_are_is_an_error(self, rows, make) -> None:
        p = make(**DRAWN | {"trusted_encoder.rows": 13})
        with pytest.raises(InputError, match=r"rows is 13, but the dev split has 12"):
            trusted_encoder.draw(rows, p.trusted_encoder, p.model, 0)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"trusted_encoder.name": "nowhere/clip-at-all"}, "nowhere/clip-at-all"),
            (
                DRAWN | {"trusted_encoder.augmentation.padding": 16},
                "padding is 16, but the images have 16",
            ),
        ],
    )
    def test_what_cannot_be_had_is_told_when_pairs_are_drawn(
        self, rows, make, changes, message
    ) -> None:
        p = make(**changes)
        with pytest.raises(InputError, match=message):
            nodes.draw_trusted_pairs(rows, p.trusted_encoder, p.model, 0)

    def test_without_pairs_it_knows_nothing(self, rows, make) -> None:
        p = make(**DRAWN | {"trusted_encoder.rows": 0})
        none = trusted_encoder.draw(rows, p.trusted_encoder, p.model, 0)
        assert none.empty
        settings = (p.trusted_encoder, p.model)
        one, again, other = (
            nodes.train_trusted_encoder(none, rows, *settings, CPU, seed) for seed in (0, 0, 1)
        )
        key = "vision_model.features.0.0.weight"
        drawn = [bundle.model.state_dict()[key] for bundle in (one, again, other)]
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])

    def test_a_named_one_is_taken_as_it_is(self, rows, make, tmp_path) -> None:
        folder = save_tiny_dual_encoder(tmp_path / "public", "vision-text-dual-encoder")
        p = make(**{"trusted_encoder.name": str(folder)})
        pairs = trusted_encoder.draw(rows, p.trusted_encoder, p.model, 0)
        assert pairs.empty
        found = nodes.train_trusted_encoder(pairs, rows, p.trusted_encoder, p.model, CPU, 0)
        expected = tiny_dual_encoder("vision-text-dual-encoder").model.state_dict()
        weights = found.model.state_dict()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)

    def test_without_a_name_the_dual_encoder_that_the_victim_starts_from_is_trusted(
        self, rows, make
    ) -> None:
        p = make()
        pairs = nodes.draw_trusted_pairs(rows, p.trusted_encoder, p.model, 0)
        assert pairs.empty
        found = nodes.train_trusted_encoder(pairs, rows, p.trusted_encoder, p.model, CPU, 0)
        expected = tiny_dual_encoder("clip").model.state_dict()
        weights = found.model.state_dict()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)

    def test_one_that_is_drawn_is_trained(self, rows, make) -> None:
        p = make(**DRAWN)
        pairs = trusted_encoder.draw(rows, p.trusted_encoder, p.model, 0)
        settings = (p.trusted_encoder, p.model)
        form = (pairs, rows, *settings)
        before = trusted_encoder.untrained(*form, 0).model.state_dict()
        found = nodes.train_trusted_encoder(*form, CPU, 0)
        after = found.model.state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed
        assert not any(name.startswith("text_model") for name in changed)


class TestPlan:
    def test_it_says_how_many_pairs_there_will_be(self, rows, make) -> None:
        params = make(**{"overfit_similarity.suspects": 4}).overfit_similarity
        assert nodes.plan_overfit_similarity(rows, params) == {"pool_pairs": 2, "exposed_pairs": 12}

    def test_what_could_not_find_anything_is_an_error(self, rows, make) -> None:
        params = make(**{"overfit_similarity.least": 13}).overfit_similarity
        with pytest.raises(InputError, match=r"least is 13, but of 40 pairs only 12"):
            nodes.plan_overfit_similarity(rows, params)
        changes = {"overfit_similarity.rank_scope": "pool", "overfit_similarity.least": 3}
        with pytest.raises(InputError, match=r"only 2 will be looked at"):
            nodes.plan_overfit_similarity(rows, make(**changes).overfit_similarity)

    def test_a_share_that_leaves_nothing_to_keep_is_an_error(self, rows, make) -> None:
        params = make(**{"overfit_similarity.suspect_share": 1.0}).overfit_similarity
        with pytest.raises(InputError, match=r"suspect_share is 1, by which all 40 pairs"):
            nodes.plan_overfit_similarity(rows, params)

    def test_a_class_that_is_too_common_is_a_warning(self, rows, make, caplog) -> None:
        params = make(**{"overfit_similarity.enrichment": 1.5}).overfit_similarity
        nodes.plan_overfit_similarity(rows, params)
        assert "enrichment" not in caplog.text
        nodes.plan_overfit_similarity(rows.assign(label=rows["label"] % 2 * 0), params)
        assert "a word in more than 67 % of all captions" in caplog.text

    def test_a_k_larger_than_the_pool_is_a_warning(self, rows, make, caplog) -> None:
        params = make(**{"overfit_similarity.suspects": 64}).overfit_similarity
        nodes.plan_overfit_similarity(rows, params)
        assert "suspects is 64, but only 12 pairs" in caplog.text


@pytest.mark.parametrize("kind", DUAL_ENCODERS)
@pytest.mark.parametrize("overfitting", [True, False])
def test_the_nodes_one_after_the_other(rows, make, kind, overfitting, monkeypatch) -> None:
    changes = {} if overfitting else {"overfit_similarity.overfitting": None}
    p = make(**changes)
    victim, trusted = tiny_dual_encoder(kind), tiny_dual_encoder("clip")
    train = rows[rows["split"] == "train"].reset_index(drop=True)
    params = p.overfit_similarity
    a = PAIR_SIMILARITY.validate(nodes.score_by_trusted(train, trusted, p.model, CPU))
    expected = similarities(trusted, read_pairs(trusted, train, 16), CPU)
    np.testing.assert_allclose(a["similarity"], expected, atol=1e-6)
    monkeypatch.setattr(nodes, "DECODED_ROWS", 7)
    by_parts = nodes.score_by_trusted(train, trusted, p.model, CPU)
    np.testing.assert_allclose(by_parts["similarity"], expected, atol=1e-6)

    over = nodes.overfit_victim(train, victim, a, params, p.training, p.model, CPU, 0)
    same = all(
        torch.equal(one, other)
        for one, other in zip(over.model.parameters(), victim.model.parameters(), strict=True)
    )
    assert same != overfitting

    ranks = PAIR_RANKS.validate(nodes.rank_pairs(train, over, a, params, p.model, CPU, 0))
    assert sorted(ranks["rank"].dropna()) == list(range(1, 13))
    first = ranks.sort_values("rank").head(12)
    gain = (ranks["similarity"] - ranks["trusted_similarity"]).to_numpy()
    f = embed_images(over, read_pairs(over, train, 16).images, CPU).astype(np.float16).astype(float)
    near = f @ f.T - 9 * np.eye(len(f))
    expected = [gain[[i, *np.argsort(-near[i])[:3]]].mean() for i in range(len(f))]
    np.testing.assert_allclose(ranks["score"], expected, atol=1e-6)
    alone = params.model_copy(update={"neighbours": 0})
    own = nodes.rank_pairs(train, over, a, alone, p.model, CPU, 0)
    np.testing.assert_allclose(own["score"], gain, atol=1e-6)
    assert first["score"].is_monotonic_decreasing
    assert first["score"].min() >= ranks.loc[ranks["rank"].isna(), "score"].max()

    trusted_pairs = rows[rows["split"] == "dev"].head(8)
    suspects, record = nodes.detect_overfit_similarity(
        train, victim, trusted, ranks, trusted_pairs, params, p.model, CPU
    )
    SUSPECTS.validate(suspects)
    assert len(suspects) == len(train)
    assert suspects["exposed"].sum() == record["exposed_pairs"] == 12
    assert record["dev_rows"] == 8
    assert bool(record["found"]) == bool(suspects["flagged"].any())
    assert suspects.loc[suspects["flagged"], "exposed"].all()


def test_ubt_11_4_the_pool_is_of_the_weakest_pairs(rows, make, monkeypatch) -> None:
    p = make(**{"overfit_similarity.rank_scope": "pool", "overfit_similarity.pool_share": 0.2})
    victim = tiny_dual_encoder("clip")
    train = rows[rows["split"] == "train"].reset_index(drop=True)
    a = pd.DataFrame({"example_id": train["example_id"], "similarity": np.cos(np.arange(40.0))})
    weak = set(a["similarity"].nsmallest(8).index)
    trained = []

    def noted(bundle, rows, *settings):
        trained.append(set(rows.index))
        return pairs_to_train(bundle, rows, *settings)

    monkeypatch.setattr(nodes, "pairs_to_train", noted)
    over = nodes.overfit_victim(train, victim, a, p.overfit_similarity, p.training, p.model, CPU, 0)
    assert trained == [weak]
    ranks = nodes.rank_pairs(train, over, a, p.overfit_similarity, p.model, CPU, 0)
    assert set(ranks.index[ranks["rank"].notna()]) == weak


def test_ubt_11_1_no_backdoor_is_told(rows, make, caplog) -> None:
    p = make(**{"overfit_similarity.least": 12, "overfit_similarity.enrichment": 50.0})
    victim = tiny_dual_encoder("clip")
    train = rows[rows["split"] == "train"].reset_index(drop=True)
    a = nodes.score_by_trusted(train, victim, p.model, CPU)
    ranks = nodes.rank_pairs(train, victim, a, p.overfit_similarity, p.model, CPU, 0)
    suspects, record = nodes.detect_overfit_similarity(
        train, victim, victim, ranks, train.head(0), p.overfit_similarity, p.model, CPU
    )
    assert not suspects["flagged"].any()
    assert not record["found"]
    assert "no backdoor was found" in caplog.text


def test_ubt_11_4_sizes() -> None:
    scores = np.zeros(101)
    assert len(overfit_similarity.first(scores, 0.01)) == 2  # of 1.01 the next whole number
    assert overfit_similarity.first(scores, 0.05).tolist() == [0, 1, 2, 3, 4, 5]  # ties: by row
