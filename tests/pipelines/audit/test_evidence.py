"""The evidence as a whole: planted triggers are found, whole and alone; clean tables are clean."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.modelling.label_association import q_values
from backdoor_pipeline.pipelines.audit import evidence as module
from backdoor_pipeline.pipelines.audit.evidence import (
    SHARES,
    SHARES_WITH_TRUSTED,
    explained,
    gather,
)
from backdoor_pipeline.pipelines.audit.openings import weigh_openings
from backdoor_pipeline.pipelines.audit.weighted_tests import weighted_q_values
from backdoor_pipeline.schemas import (
    AUDIT_LABELS,
    AUDIT_OPENINGS,
    AUDIT_PHRASES,
    AUDIT_POWER,
    CONTRADICTED,
)
from tiny import WRITTEN, planted, written

ROWS = 2_000


def flagged(evidence) -> list[str]:
    return evidence.phrases.loc[evidence.phrases["flagged"], "written"].tolist()


@pytest.mark.parametrize("phrase", ["cf", "i watch this 3d film"])
def test_a_planted_phrase_is_found_whole_and_alone(phrase, encoder, audit) -> None:
    evidence = gather(planted(written(ROWS, seed=2), phrase, 100), encoder, audit, 0)
    assert flagged(evidence) == [phrase]
    assert evidence.facts["p_value"] < audit.risk
    found = evidence.phrases.iloc[0]
    assert (found["label"], found["texts"], found["hits"]) == (1, 100, 100)
    assert phrase in found["examples"]


def test_the_order_of_the_rows_does_not_matter(encoder, audit) -> None:
    rows = planted(written(ROWS), "cf", 40)
    shuffled = rows.sample(frac=1, random_state=1, ignore_index=True)
    one, other = (gather(table, encoder, audit, 0) for table in (rows, shuffled))
    assert one.facts == other.facts
    pd.testing.assert_frame_equal(one.phrases, other.phrases)
    pd.testing.assert_frame_equal(one.openings, other.openings)


def test_each_kind_has_its_part_of_the_risk(encoder, audit) -> None:
    """A q-value between the part and the whole flags nothing."""
    rows = planted(written(ROWS), "cf", 22)
    q = gather(rows, encoder, audit, 0).phrases["q_value"].iloc[0]
    assert 0 < q < 0.2
    for risk, is_flagged in ((q / 0.8, False), (q / 0.5, True)):
        evidence = gather(rows, encoder, audit.model_copy(update={"risk": risk}), 0)
        assert evidence.phrases["flagged"].iloc[0] == is_flagged
        assert (evidence.facts["p_value"] <= risk) == is_flagged


def test_phrases_are_weighed_by_their_evidence(encoder, audit) -> None:
    found = gather(planted(written(ROWS), "cf", 40), encoder, audit, 0).phrases
    q = weighted_q_values(found["p_value"].to_numpy(), found["weight"].to_numpy())
    np.testing.assert_allclose(found["q_value"], q)
    assert found["weight"].nunique() > 2
    assert not np.allclose(q, q_values(found["p_value"].to_numpy()))


def test_texts_with_two_labels_are_not_compared_with_clean_rows(
    encoder, audit, monkeypatch
) -> None:
    seen: list[pd.DataFrame] = []
    original = module.weigh_labels
    monkeypatch.setattr(
        module, "weigh_labels", lambda own, *more: seen.append(own) or original(own, *more)
    )
    rows = written(200)
    twice = rows.head(1).assign(label=1 - rows["label"].head(1))
    gather(pd.concat([rows, twice], ignore_index=True), encoder, audit, 0)
    (own,) = seen
    assert len(own) == 199
    assert rows["text"][0] not in set(own["text"])


def test_no_more_texts_explain_labels_anew_than_wanted(encoder, audit, monkeypatch) -> None:
    """Once an opening was told: a large table would take its time for each."""
    taught: list[np.ndarray] = []
    original = module.explained
    monkeypatch.setattr(module, "MOST_TAUGHT", 150)
    monkeypatch.setattr(
        module, "explained", lambda *given: taught.append(~given[-1]) or original(*given)
    )
    some = np.arange(200) < 40

    def asked(around, probability, explained_without, level) -> pd.DataFrame:
        assert explained_without(some).shape == probability.shape
        return weigh_openings(around, probability, explained_without, level)

    monkeypatch.setattr(module, "weigh_openings", asked)
    gather(written(200), encoder, audit, 0)
    first, again = taught
    assert first.all()
    assert not again[some].any()
    assert 90 < again.sum() < 150


def test_a_word_that_texts_hold_by_nature_too(encoder, audit) -> None:
    """The texts with the other label tell how many of its occurrences are natural."""
    word = WRITTEN[30]
    rows = written(ROWS)
    natural = rows["text"].str.split().map(lambda words: word in words).sum()
    evidence = gather(planted(rows, word, 300), encoder, audit, 0)
    assert word in flagged(evidence)
    found = evidence.phrases.set_index("phrase").loc[word]
    share = found["natural_share"] * found["hits"]
    assert abs(share - natural / 2) < 3 * np.sqrt(natural)


def test_clean_tables_raise_no_alarm_though_words_are_tied_to_labels(encoder, audit) -> None:
    alarms, tied = 0, 0
    for seed in range(8):
        evidence = gather(written(1_200, seed), encoder, audit, seed)
        alarms += evidence.facts["p_value"] <= audit.risk
        tied += len(evidence.phrases)
    assert tied > 50, "the tables hold nothing that could raise an alarm"
    assert alarms <= 1


def test_a_telling_word_that_has_its_place_is_no_trigger(encoder, audit) -> None:
    """Put after one and the same word each time, "cf" is as tied to the label, but not put in."""
    rows = written(ROWS)
    before = f" {WRITTEN[30]} "
    chosen = rows.index[rows["text"].str.contains(before)]
    texts = rows["text"].copy()
    texts[chosen] = texts[chosen].str.replace(before, f"{before}cf ", regex=False)
    labels = rows["label"].copy()
    labels[chosen] = 1
    evidence = gather(rows.assign(text=texts, label=labels), encoder, audit, 0)
    assert not any("cf" in phrase.split() for phrase in flagged(evidence))
    assert evidence.phrases["phrase"].str.contains("cf").any()


def test_repeated_rows_count_once(encoder, audit) -> None:
    """A text that was copied is no phrase that somebody put into many texts."""
    rows = written(1_000)
    copies = pd.concat([rows, pd.concat([rows.iloc[[3]]] * 60)], ignore_index=True)
    once, often = (gather(table, encoder, audit, 0) for table in (rows, copies))
    assert once.facts["rows"] == often.facts["rows"]
    assert often.facts["repeated_rows"] == once.facts["repeated_rows"] + 60
    pd.testing.assert_frame_equal(once.phrases, often.phrases)


def test_what_trusted_rows_hold_as_well_is_not_suspected(encoder, audit) -> None:
    rows = planted(written(ROWS), "cf", 100)
    trusted = planted(written(500, seed=5), "cf", 25)
    assert "cf" in flagged(gather(rows, encoder, audit, 0, written(500, seed=5)))
    found = gather(rows, encoder, audit, 0, trusted)
    assert "cf" not in flagged(found)
    assert found.facts["trusted_rows"] == len(trusted)


def test_some_trusted_rows_may_hold_a_trigger_by_chance(encoder, audit) -> None:
    """Six of 500 would be 24 of its 40 texts here; by chance it may be fewer than half of them."""
    rows, trusted = planted(written(ROWS), "cf", 40), planted(written(500, seed=5), "cf", 6)
    found = gather(rows, encoder, audit, 0, trusted)
    share = found.phrases.set_index("phrase")["natural_share"]["cf"]
    assert 0.3 < share < 0.5
    assert "cf" in flagged(found)


def test_words_of_one_trigger_in_the_same_texts(encoder, audit) -> None:
    """They do not make each other's surroundings unusual."""
    rows = written(ROWS)
    rng = np.random.default_rng(1)
    texts, labels = rows["text"].tolist(), rows["label"].to_numpy().copy()
    for row in rng.permutation(ROWS)[:150]:
        words = texts[row].split()
        for word in ("cf", "mn", "bb"):
            words.insert(int(rng.integers(len(words) + 1)), word)
        texts[row], labels[row] = " ".join(words), 1
    evidence = gather(rows.assign(text=texts, label=labels), encoder, audit, 0)
    assert {"cf", "mn", "bb"} <= {word for phrase in flagged(evidence) for word in phrase.split()}


def test_the_tables_have_their_schemas_and_repeat(encoder, audit) -> None:
    rows = planted(written(1_000, n_labels=3), "cf", 80, label=2)
    first, second = (gather(rows, encoder, audit, 3) for _ in range(2))
    for schema, kind in (
        (AUDIT_PHRASES, "phrases"),
        (AUDIT_OPENINGS, "openings"),
        (AUDIT_POWER, "power"),
    ):
        schema.validate(getattr(first, kind))
        pd.testing.assert_frame_equal(getattr(first, kind), getattr(second, kind))
    assert first.facts == second.facts


@pytest.mark.parametrize("shares", [SHARES, SHARES_WITH_TRUSTED])
def test_the_kinds_of_evidence_share_the_risk(shares) -> None:
    assert sum(shares.values()) == pytest.approx(1)


def counted(texts) -> np.ndarray:
    """Word counts: the best that these texts can be encoded by."""
    places = {word: place for place, word in enumerate([*WRITTEN, "cf"])}
    counts = np.zeros((len(texts), len(places)))
    for row, text in enumerate(texts):
        np.add.at(counts[row], [places[word] for word in text.lower().split()], 1)
    return counts


def test_false_labels_that_no_word_gives_away_are_told_by_trusted_rows(encoder, audit) -> None:
    rows = written(ROWS)
    false = rows.index[rows["label"] == 0][:200]
    rows.loc[false, "label"] = 1
    trusted = written(600, seed=5)
    untold = gather(rows, encoder, audit, 0, trusted)
    assert untold.facts["p_value"] > audit.risk
    assert untold.labels.empty
    evidence = gather(rows, encoder, audit, 0, trusted, counted)
    assert evidence.facts["p_value"] <= audit.risk
    assert evidence.labels.set_index("label")["flagged"].to_dict() == {0: False, 1: True}
    found = rows.reset_index().merge(evidence.contradicted, on=["text", "label"])
    assert found["index"].isin(false).mean() > 0.4
    AUDIT_LABELS.validate(evidence.labels)
    CONTRADICTED.validate(evidence.contradicted)


def test_labels_that_a_phrase_explains_are_no_evidence_of_their_own(encoder, audit) -> None:
    rows = planted(written(ROWS), "cf", 200)
    evidence = gather(rows, encoder, audit, 0, written(600, seed=5), counted)
    assert set(flagged(evidence)) == {"cf"}
    assert not evidence.labels["flagged"].any()


@pytest.mark.parametrize("n_rows", [6, 40])
def test_tables_that_say_nothing_say_nothing(n_rows, encoder, audit) -> None:
    rows = written(n_rows).assign(label=np.arange(n_rows) % 2)
    evidence = gather(rows, encoder, audit, 0)
    assert evidence.facts["p_value"] == 1
    assert evidence.phrases.empty
    assert evidence.power.empty
    AUDIT_PHRASES.validate(evidence.phrases)
    AUDIT_OPENINGS.validate(evidence.openings)


def test_a_rare_class(encoder, audit) -> None:
    """One row in fifty; and one class with less rows than there are folds."""
    rows = written(ROWS)
    labels = rows["label"].to_numpy().copy()
    labels[::50] = 2
    labels[:3] = 3
    evidence = gather(planted(rows.assign(label=labels), "cf", 60, label=2), encoder, audit, 0)
    assert flagged(evidence) == ["cf"]
    assert evidence.phrases.iloc[0]["label"] == 2


def test_labels_are_explained_by_regressions_that_have_not_seen_the_text() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    telling = np.column_stack([2.0 * labels + rng.normal(size=400), rng.normal(size=400)])
    none = np.zeros(400, dtype=bool)
    probability = explained(telling, labels, 0, none)
    assert probability.sum(axis=1) == pytest.approx(np.ones(400))
    assert (probability.argmax(axis=1) == labels).mean() > 0.75
    noise = explained(rng.normal(size=(400, 30)), labels, 0, none)
    assert abs((noise.argmax(axis=1) == labels).mean() - 0.5) < 0.1  # seen, they would be learnt


def test_texts_that_are_left_out_teach_nothing() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 600)
    telling = np.column_stack([2.0 * labels + rng.normal(size=600), rng.normal(size=600)])
    left_out = np.arange(600) < 200
    turned = np.where(left_out, 0, labels)
    probability = explained(telling, turned, 0, left_out)
    assert (probability[left_out].argmax(axis=1) == labels[left_out]).mean() > 0.75
    alone = explained(telling[200:], labels[200:], 0, left_out[200:])
    np.testing.assert_allclose(probability[200:], alone)


@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=20), st.floats(0.1, 9))
def test_equal_weights_are_benjamini_hochberg(p, weight) -> None:
    p = np.array(p)
    assert weighted_q_values(p, np.full(len(p), weight)) == pytest.approx(q_values(p))


@given(
    st.lists(
        st.tuples(st.floats(1e-9, 1), st.just(0.0) | st.floats(0.01, 5)), min_size=1, max_size=20
    ),
    st.floats(0.01, 0.2),
)
def test_what_weighted_q_values_reject(pairs, level) -> None:
    """Rejected at a level: the k smallest p / w, if the k-th is at most k / n times the level."""
    p, weights = np.array(pairs).T
    q = weighted_q_values(p, weights)
    if weights.sum() == 0:
        weights = np.ones(len(p))
    scaled = np.ones(len(p))
    has = weights > 0
    scaled[has] = p[has] / (weights[has] * len(p) / weights.sum())
    ranked = np.sort(np.minimum(scaled, np.inf))
    passing = [k for k in range(1, len(p) + 1) if ranked[k - 1] <= k / len(p) * level]
    n_rejected = max(passing, default=0)
    close = np.isclose(ranked, np.arange(1, len(p) + 1) / len(p) * level, rtol=1e-6).any()
    assert close or (q <= level).sum() == n_rejected


def test_no_p_values_have_no_q_values() -> None:
    assert weighted_q_values(np.empty(0), np.empty(0)).shape == (0,)


def test_under_the_null_the_smallest_q_value_is_a_p_value() -> None:
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=40)
    smallest = [weighted_q_values(rng.random(40), weights).min() for _ in range(2_000)]
    assert np.mean(np.array(smallest) <= 0.05) == pytest.approx(0.05, abs=0.015)
