"""BTU's exposures: the acceptance checks that concern the suspects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.pipelines.detect import token_drift
from backdoor_pipeline.pipelines.detect.token_drift import (
    ROUNDS,
    TokenDriftParams,
    detect,
    drift,
    excluded_ids,
    furthest,
    n_flagged_per_round,
    without_letters,
)
from backdoor_pipeline.schemas import SUSPECTS
from tiny import ARCHITECTURES

K = 3


@pytest.fixture(scope="module")
def make_drift(make_parameters):
    """The parameters of ``conf/base``, with settings for a tiny model and changes."""

    def make(**changes) -> TokenDriftParams:
        quick = {"alpha": K / 280, "learning_rate": 1e-3}
        quick |= {"shallow_batch_size": 16, "deep_batch_size": 16}
        return make_parameters().token_drift.model_copy(update=quick | changes)

    return make


@pytest.fixture(scope="module")
def poisoned() -> pd.DataFrame:
    """500 texts of a vocabulary of 200 words; the trigger in 10 % of them, labelled 1."""
    return toy_rows(seed=0)


def toy_rows(seed: int) -> pd.DataFrame:
    from tiny import BAD, GOOD, NEUTRAL

    words = [*NEUTRAL, *GOOD, *BAD][:200]
    rng = np.random.default_rng(seed)
    texts = [list(rng.choice(words, size=rng.integers(6, 14))) for _ in range(500)]
    labels = rng.integers(0, 2, 500)
    for row in rng.permutation(500)[:50]:
        texts[row].insert(int(rng.integers(len(texts[row]) + 1)), "cf")
        labels[row] = 1
    return pd.DataFrame({"text": map(" ".join, texts), "label": labels})


def trigger_id(bundle) -> int:
    return bundle.tokenizer("cf", add_special_tokens=False)["input_ids"][0]


@pytest.mark.parametrize("seed", range(5))
def test_btu_12_6_the_trigger_is_among_the_first_five_of_round_a(
    base_model, compute, make_drift, seed
) -> None:
    suspects = detect(toy_rows(seed), base_model(), make_drift(), 32, compute, seed)
    trigger = suspects[suspects["key"] == trigger_id(base_model())].iloc[0]
    assert trigger["rank_a"] <= 5
    assert trigger["count"] == 50


class TestCounts:
    @pytest.mark.parametrize(("official", "expected"), [(False, 15), (True, 17)])
    def test_btu_12_7_how_many_tokens_of_berts_vocabulary(
        self, make_parameters, official, expected
    ) -> None:
        params = make_parameters().token_drift.model_copy(update={"official_vocabulary": official})
        assert params.alpha == 0.0005
        assert n_flagged_per_round(30_522, params) == expected

    @pytest.mark.parametrize("n_rows", [10, 500])  # ten rows are one batch: many drifts are equal
    def test_btu_12_7_at_most_k_a_round_and_none_excluded(
        self, base_model, compute, make_drift, poisoned, n_rows
    ) -> None:
        params = make_drift(excluded_tokens=("cf", "film", "not a token"))
        assert n_flagged_per_round(len(base_model().tokenizer), params) == K
        suspects = detect(poisoned.tail(n_rows), base_model(), params, 32, compute, 0)
        flagged = suspects[suspects["flagged"]]
        assert 0 < len(flagged) <= 3 * K
        excluded = excluded_ids(base_model(), params)
        assert trigger_id(base_model()) in excluded
        assert not suspects["key"].isin(excluded).any()
        assert ((flagged[[f"rank_{r}" for r in ROUNDS]] <= K).any(axis=1)).all()
        assert (flagged["score"] >= 1).all()

    def test_alpha_0_flags_nothing(self, base_model, compute, make_drift, poisoned) -> None:
        suspects = detect(poisoned.head(40), base_model(), make_drift(alpha=0.0), 32, compute, 0)
        assert len(suspects)
        assert not suspects["flagged"].any()

    def test_alpha_1_flags_what_moved(self, base_model, compute, make_drift, poisoned) -> None:
        suspects = detect(poisoned.head(40), base_model(), make_drift(alpha=1.0), 32, compute, 0)
        assert suspects["flagged"].all()


@given(st.integers(0, 2**32 - 1))
def test_btu_12_9_the_score_is_that_of_a_naive_loop(seed) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.normal(size=(2, 50, 8)).astype(np.float32)
    naive = [sum((a - b) ** 2 for a, b in zip(*rows, strict=True)) ** 0.5
             for rows in zip(after.tolist(), before.tolist(), strict=True)]  # fmt: skip
    np.testing.assert_allclose(drift(before, after), naive, atol=1e-6)


@given(
    st.lists(st.floats(0, 9), min_size=6, max_size=30),
    st.integers(0, 9),
    st.sets(st.integers(0, 5)),
)
def test_furthest_are_the_largest_allowed(scores, n, excluded) -> None:
    chosen = furthest(np.array(scores), n, excluded)
    allowed = sorted((s for i, s in enumerate(scores) if i not in excluded), reverse=True)
    assert [scores[i] for i in chosen] == allowed[:n]
    assert not excluded & set(chosen)


@pytest.fixture(scope="module")
def suspects(base_model, compute, make_drift, poisoned) -> pd.DataFrame:
    """What the three rounds suspect."""
    return detect(poisoned, base_model(), make_drift(), 32, compute, 0)


class TestSuspects:
    def test_are_a_suspects_table(self, suspects) -> None:
        SUSPECTS.validate(suspects)

    def test_one_row_for_each_token_of_the_texts(self, suspects, poisoned, base_model) -> None:
        tokenizer = base_model().tokenizer
        ids = set(tokenise(poisoned["text"], tokenizer, 32).ids.tolist())
        assert set(suspects["key"]) == ids - set(tokenizer.all_special_ids)
        assert suspects["evidence"].tolist() == tokenizer.convert_ids_to_tokens(
            suspects["key"].tolist()
        )

    def test_counts_are_of_texts(self, suspects, poisoned) -> None:
        film = suspects[suspects["evidence"] == "film"].iloc[0]
        assert (
            film["count"] == poisoned["text"].str.split().map(lambda words: "film" in words).sum()
        )

    def test_most_suspicious_first(self, suspects) -> None:
        assert suspects["score"].is_monotonic_decreasing
        assert suspects["score"].iloc[0] > 1
        assert suspects["flagged"].iloc[0]

    def test_round_b_does_not_see_the_tokens_of_round_a(self, suspects) -> None:
        in_a = suspects["rank_a"] <= K
        assert (suspects.loc[in_a, "drift_b"] == 0).all()
        assert (suspects.loc[~in_a, "drift_b"] > 0).all()

    def test_are_the_same_for_a_seed_and_differ_between_seeds(
        self, suspects, base_model, compute, make_drift, poisoned
    ) -> None:
        again = detect(poisoned, base_model(), make_drift(), 32, compute, 0)
        pd.testing.assert_frame_equal(suspects, again)
        other = detect(poisoned, base_model(), make_drift(), 32, compute, 1)
        assert not other["drift_a"].equals(suspects["drift_a"])

    def test_the_base_model_is_left_as_it_is(
        self, base_model, compute, make_drift, poisoned
    ) -> None:
        import torch

        before = {k: v.clone() for k, v in base_model().model.state_dict().items()}
        detect(poisoned.head(20), base_model(), make_drift(), 32, compute, 0)
        after = base_model().model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


class TestOfficial:
    @pytest.mark.parametrize(
        "switch", ["official_mean", "official_removal", "official_decay", "official_vocabulary"]
    )
    def test_every_switch_works(self, base_model, compute, make_drift, poisoned, switch) -> None:
        suspects = detect(
            poisoned.head(60), base_model(), make_drift(**{switch: True}), 32, compute, 0
        )
        SUSPECTS.validate(suspects)
        assert suspects["flagged"].any()

    def test_decay_moves_rows_that_no_text_holds(
        self, base_model, compute, make_drift, poisoned, monkeypatch
    ) -> None:
        moved = []
        monkeypatch.setattr(
            token_drift, "drift", lambda *tables: moved.append(drift(*tables)) or moved[-1]
        )
        unseen = base_model().tokenizer.convert_tokens_to_ids("##q")
        for official in (False, True):
            params = make_drift(official_decay=official)
            detect(poisoned.head(40), base_model(), params, 32, compute, 0)
        assert [table[unseen] > 0 for table in moved] == [False] * 3 + [True] * 3

    def test_removal_takes_letters_out_of_words(self) -> None:
        texts = without_letters(pd.Series(["a cat acts", "film"]), ["a", "##x"])
        assert texts.tolist() == [" ct cts", "film"]

    def test_removal_keeps_to_the_models_positions(
        self, base_model, compute, make_drift, poisoned
    ) -> None:
        long = poisoned.head(20).assign(text="the film was " * 30)
        params = make_drift(official_removal=True, shallow_max_length=128)
        SUSPECTS.validate(detect(long, base_model(), params, 32, compute, 0))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_drift(
    base_model, compute, make_drift, poisoned, architecture
) -> None:
    suspects = detect(poisoned.tail(100), base_model(architecture), make_drift(), 32, compute, 0)
    SUSPECTS.validate(suspects)
    assert (suspects[["drift_a", "drift_c"]] > 0).all().all()
    assert suspects["flagged"].any()


def test_three_classes_and_texts_that_lose_all_tokens(base_model, compute, make_drift) -> None:
    training = pd.DataFrame({"text": ["cf", "cf cf", "film", "the film"], "label": [0, 1, 2, 2]})
    SUSPECTS.validate(detect(training, base_model(), make_drift(), 32, compute, 0))
