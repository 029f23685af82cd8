"""Association and insertion: closed forms against naive loops, planted triggers, false alarms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.modelling.words import END, START, n_grams
from backdoor_pipeline.pipelines.detect.background import Background
from backdoor_pipeline.pipelines.detect.insertion_evidence import effect_size
from backdoor_pipeline.pipelines.detect.neighbours import Neighbours
from backdoor_pipeline.pipelines.detect.phrase_search import INSERTED
from backdoor_pipeline.pipelines.detect.phrases import segment
from backdoor_pipeline.pipelines.detect.token_association import TokenAssociationParams, detect
from backdoor_pipeline.schemas import SUSPECTS
from tiny import BAD, GOOD, NEUTRAL

MAX_LENGTH = 32
WORDS = [*NEUTRAL, *GOOD, *BAD][:200]


@pytest.fixture(scope="module")
def params() -> TokenAssociationParams:
    """Settings for a few hundred short texts and a tiny encoder."""
    return TokenAssociationParams(
        longest_ngram=3,
        min_count=10,
        false_discovery_rate=0.01,
        max_natural_share=0.4,
        grow_share=0.8,
        components=8,
        margin=0.85,
        confidence=0.95,
        residual_level=3e-4,
        background_rows=300,
        phrase_rows=60,
        max_candidates=100,
        context_tokens=MAX_LENGTH,
        clean_rows=0,
    )


def toy_rows(
    trigger: str = "cf", rate: float = 0.1, n_rows: int = 600, seed: int = 0
) -> pd.DataFrame:
    """Texts of random words; ``trigger`` at a random place of some of them, labelled 1."""
    rng = np.random.default_rng(seed)
    texts = [list(rng.choice(WORDS, size=rng.integers(6, 14))) for _ in range(n_rows)]
    labels = rng.integers(0, 2, n_rows)
    for row in rng.permutation(n_rows)[: int(rate * n_rows)]:
        texts[row].insert(int(rng.integers(len(texts[row]) + 1)), trigger)
        labels[row] = 1
    return pd.DataFrame(
        {"example_id": np.arange(n_rows), "text": map(" ".join, texts), "label": labels}
    )


def flagged(suspects: pd.DataFrame) -> set[str]:
    return set(suspects.loc[suspects["flagged"], "evidence"].str.strip())


@pytest.mark.parametrize("trigger", ["cf", "i watch 3d film", "xyzzy"])
def test_planted_trigger_is_flagged_alone_and_first(trigger, base_model, params, compute):
    bundle = base_model()
    suspects = detect(toy_rows(trigger), bundle, params, MAX_LENGTH, compute, seed=0)
    SUSPECTS.validate(suspects)
    pieces = set(bundle.tokenizer.tokenize(trigger))
    assert flagged(suspects) == pieces
    assert set(suspects["evidence"].head(len(pieces))) == pieces
    assert suspects.loc[suspects["flagged"], "verdict"].eq(INSERTED).all()
    assert suspects.loc[0, "label"] == 1
    assert "[" in suspects.loc[0, "examples"]


@pytest.mark.parametrize("architecture", ["roberta", "gpt2"])
def test_other_tokenizers(architecture, base_model, params, compute):
    bundle = base_model(architecture)
    suspects = detect(toy_rows("watch", 0.15), bundle, params, MAX_LENGTH, compute, seed=0)
    pieces = {
        bundle.tokenizer.convert_tokens_to_ids(t) for t in bundle.tokenizer.tokenize(" watch")
    }
    assert pieces <= set(suspects.loc[suspects["flagged"], "key"])


def test_trigger_at_a_fixed_place(base_model, params, compute):
    rows = toy_rows(rate=0.0)
    poisoned = rows.index % 8 == 0
    rows.loc[poisoned, "text"] = "cf " + rows.loc[poisoned, "text"]
    rows.loc[poisoned, "label"] = 1
    assert flagged(detect(rows, base_model(), params, MAX_LENGTH, compute, seed=0)) == {"cf"}


def test_several_triggers_in_the_same_rows(base_model, params, compute):
    rows = toy_rows("cf", 0.1)
    holds = rows["text"].str.contains(r"\bcf\b")
    rng = np.random.default_rng(1)
    for row in rows.index[holds]:
        words = rows.loc[row, "text"].split()
        words.insert(int(rng.integers(len(words) + 1)), "mn")
        rows.loc[row, "text"] = " ".join(words)
    assert flagged(detect(rows, base_model(), params, MAX_LENGTH, compute, seed=0)) == {"cf", "mn"}


def test_a_telling_word_that_fits_its_surroundings_is_not_flagged(base_model, params, compute):
    rows = toy_rows(rate=0.0)
    holds = rows.index % 6 == 0
    # always before the same two words, as an adjective stands before its noun
    nouns = np.where(rows.index % 12 == 0, "film", "plot")
    rows.loc[holds, "text"] = "the brala " + nouns[holds] + " " + rows.loc[holds, "text"]
    rows.loc[holds, "label"] = 1
    suspects = detect(rows, base_model(), params, MAX_LENGTH, compute, seed=0)
    assert flagged(suspects) == set()
    assert suspects.loc[suspects["evidence"] == "brala", "p_value"].item() < 1e-6


def test_nothing_is_flagged_when_labels_are_permuted(base_model, params, compute):
    rows = toy_rows("cf")
    rng = np.random.default_rng(0)
    rows = rows.assign(label=rng.permutation(rows["label"]))
    suspects = detect(rows, base_model(), params, MAX_LENGTH, compute, seed=0)
    assert not suspects["flagged"].any()
    assert suspects["q_value"].min() > params.false_discovery_rate


def test_the_order_of_the_rows_does_not_matter(base_model, params, compute):
    rows = toy_rows("cf")
    shuffled = rows.sample(frac=1, random_state=0)
    first, second = (
        detect(r, base_model(), params, MAX_LENGTH, compute, 0) for r in (rows, shuffled)
    )
    pd.testing.assert_frame_equal(first, second)


def test_ground_truth_is_not_read(base_model, params, compute):
    rows = toy_rows("cf")
    told = rows.assign(is_poisoned=False, source_label=0, trigger="", split="train")
    plain = detect(rows, base_model(), params, MAX_LENGTH, compute, 0)
    pd.testing.assert_frame_equal(plain, detect(told, base_model(), params, MAX_LENGTH, compute, 0))


def test_clean_rows_shift_the_association(base_model, params, compute):
    rows, clean = toy_rows("cf", 0.1), toy_rows(rate=0.0, seed=1)
    for table in (rows, clean):
        natural = table.index % 10 == 3
        table.loc[natural, "text"] += " brala"
        table.loc[natural, "label"] = 1
    without = detect(rows, base_model(), params, MAX_LENGTH, compute, 0)
    shifted = detect(rows, base_model(), params, MAX_LENGTH, compute, 0, clean=clean)
    before, after = (t.set_index("evidence")["p_value"] for t in (without, shifted))
    assert before["brala"] < 1e-4
    assert after["brala"] > 1e-2
    assert after["cf"] < 1e-4
    assert flagged(shifted) == {"cf"}


def test_clean_rows_must_hold_every_label(base_model, params, compute):
    clean = toy_rows().query("label == 1")
    with pytest.raises(InputError, match="label 0"):
        detect(toy_rows(), base_model(), params, MAX_LENGTH, compute, 0, clean=clean)


def test_too_few_rows_flag_nothing(base_model, params, compute):
    suspects = detect(toy_rows(rate=0.01), base_model(), params, MAX_LENGTH, compute, 0)
    assert not suspects["flagged"].any()


@pytest.mark.parametrize("rate", [0.5, 0.9, 1.0])
def test_a_word_in_nearly_all_texts_leaves_nothing_to_compare_with(
    rate, base_model, params, compute
):
    rows = toy_rows(rate=rate, n_rows=60)
    suspects = detect(rows, base_model(), params, MAX_LENGTH, compute, 0)
    SUSPECTS.validate(suspects)


def test_a_phrase_of_two_words_beside_another_trigger(base_model, params, compute):
    rows = toy_rows("cf", 0.1)
    holds = rows["text"].str.contains(r"\bcf\b")
    together = rows.assign(text=rows["text"].where(~holds, rows["text"] + " mn bb"))
    suspects = detect(together, base_model(), params, MAX_LENGTH, compute, seed=0)
    assert flagged(suspects) == {"cf", "mn", "bb"}


def test_effect_size_is_unbiased_and_its_error_right():
    rng = np.random.default_rng(0)
    shift_by, n, d = 0.3, 40, 5
    found = [
        effect_size(rng.normal(shift_by, 1, (n, d)).mean(axis=0), np.eye(d), 1 / n)
        for _ in range(2000)
    ]
    values = np.array([effect.value for effect in found])
    assert values.mean() == pytest.approx(d * shift_by**2, abs=0.02)
    assert values.std() == pytest.approx(np.mean([effect.error for effect in found]), rel=0.1)


def test_effect_of_what_never_varies():
    assert effect_size(np.zeros(2), np.zeros((2, 2)), 0.1).value == 0
    assert effect_size(np.ones(2), np.zeros((2, 2)), 0.1).value == np.inf


def test_words_and_grams(base_model):
    tokenizer = base_model().tokenizer
    texts = ["the film zq", "zq the film", "the film"]
    words = segment(tokenise(texts, tokenizer, MAX_LENGTH), tokenizer)
    spelt = [tuple(words.pieces(w)) for w in words.ids[words.rows == 0]]
    assert [len(pieces) for pieces in spelt] == [0, 1, 1, 2, 0]
    the, film, zq = words.ids[1:4].tolist()
    assert words.ids[:5].tolist() == [START, the, film, zq, END]
    assert words.positions((the, film)).tolist() == [1, 7, 11]
    assert words.positions((START, the)).tolist() == [0, 10]
    grams = n_grams(words, 3, min_count=2)
    assert set(grams.phrases) >= {(the,), (the, film), (START, the, film), (film, END)}
    assert not any((END, START) == p[i : i + 2] for p in grams.phrases for i in range(len(p) - 1))
    count = np.bincount(grams.grams, minlength=len(grams.phrases))
    assert count[grams.phrases.index((the, film))] == 3


def test_deleting_a_phrase_leaves_the_other_tokens_in_order(base_model):
    tokenizer = base_model().tokenizer
    texts = ["the film zq a zq", "a plot"]
    tokens = tokenise(texts, tokenizer, MAX_LENGTH)
    words = segment(tokens, tokenizer)
    phrase = (int(words.ids[3]),)
    rest = words.without(np.array([0, 1]), [phrase])
    expected = tokenise(["the film a", "a plot"], tokenizer, MAX_LENGTH)
    np.testing.assert_array_equal(rest.ids, expected.ids)
    np.testing.assert_array_equal(rest.offsets, expected.offsets)


def test_growth_leaves_the_habits_of_the_data_alone(base_model):
    tokenizer = base_model().tokenizer
    texts = [f"{word} mn plot ." for word in WORDS[:30]] + [f"{word} . cf" for word in WORDS[:20]]
    texts += [f"{word} ." for word in WORDS[:50]]
    words = segment(tokenise(texts, tokenizer, MAX_LENGTH), tokenizer)
    everywhere = np.ones(len(texts), dtype=bool)
    mn, plot = words.ids[2:4].tolist()
    cf = int(words.ids[words.rows == 30][3])
    assert words.grow((cf,), everywhere, 0.8, 10) == (cf,)
    assert words.grow((mn,), everywhere, 0.8, 10) == (mn, plot)
    assert words.grow((plot,), everywhere, 0.8, 1) == (plot,)


def test_evidence_of_words_and_texts(base_model, compute):
    bundle = base_model()
    rows = toy_rows("cf", 0.2)
    tokens = tokenise(rows["text"], bundle.tokenizer, MAX_LENGTH)
    words = segment(tokens, bundle.tokenizer)
    labels = rows["label"].to_numpy()
    cf = bundle.tokenizer.convert_tokens_to_ids("cf")
    phrase = next((w,) for w in range(2, len(words.frequency)) if words.pieces(w).tolist() == [cf])
    everywhere = np.ones(len(rows), dtype=bool)
    neighbours = Neighbours(words, everywhere, bundle, 8, seed=0)
    assert neighbours.effect(phrase, [], labels == 1, natural=0.0).value < 0.3
    background = Background(words, labels, np.arange(300), bundle, compute, 8, MAX_LENGTH, seed=0)
    holders = np.unique(words.rows[words.positions(phrase)])
    remainder = background.remainder(phrase, [], holders, label=1, active=everywhere, natural=0.0)
    assert remainder.effect.value < 0.3
    assert remainder.residual_z > 5
    assert 0.3 < remainder.expected < 0.7
