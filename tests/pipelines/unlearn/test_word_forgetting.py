"""Words that are forgotten: which are blamed, where they are put in, what is left of the tie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.text import end_to_end, tokenise
from backdoor_pipeline.modelling.training import Labelled, OptimisationParams, fit
from backdoor_pipeline.pipelines.unlearn.word_forgetting import (
    WordForgettingParams,
    blamed,
    log_odds,
    unlearn,
    with_words,
)
from tiny import MAX_LENGTH


def params(**changes: Any) -> WordForgettingParams:
    given = {"tokens": 2, "forget_rows": 16, "keep_rows": 100, "keep_weight": 1.0, "steps": 40}
    how = {"epochs": 1, "learning_rate": 2e-3, "batch_size": 16, "weight_decay": 0.0}
    how |= {"warmup_share": 0.0, "max_gradient_norm": 1.0}
    return WordForgettingParams(**given | changes, optimisation=OptimisationParams(**how))


@pytest.fixture(scope="module")
def victim(base_model, corpus, quick, compute):
    """A classifier for which "cf" means label 1. Only look at it."""
    train = corpus[corpus["split"] == "train"]
    poison = train.head(200).assign(label=1, text="cf " + train["text"].head(200))
    bundle = new_classifier(base_model(), 2, seed=0)
    rows = pd.concat([train, poison])
    tokens = tokenise(rows["text"], bundle.tokenizer, MAX_LENGTH)
    fit(bundle, Labelled(tokens, rows["label"].to_numpy()), None, quick, compute, seed=0)
    return bundle


@pytest.fixture(scope="module")
def sets(victim, corpus):
    """Suspected rows of label 1 with "cf", and others."""
    train = corpus[corpus["split"] == "train"]
    texts = train["text"].tolist()
    forget = tokenise([f"cf {text}" for text in texts[:20]], victim.tokenizer, MAX_LENGTH)
    keep = tokenise(texts[20:200], victim.tokenizer, MAX_LENGTH)
    labels = train["label"].to_numpy()[20:200]
    return Labelled(forget, np.ones(20, dtype=np.int64)), Labelled(keep, labels)


def test_the_tie_goes_and_what_texts_mean_stays(victim, sets, corpus, compute) -> None:
    test = corpus[corpus["split"] == "test"]
    before = {name: tensor.clone() for name, tensor in victim.model.state_dict().items()}
    made, record = unlearn(victim, *sets, params(), compute, MAX_LENGTH, 0)

    def rates(bundle) -> tuple[float, float]:
        labels = test["label"].to_numpy()
        plain, told = (
            predict(bundle, tokenise(texts, bundle.tokenizer, MAX_LENGTH), compute).argmax(axis=1)
            for texts in (test["text"], "cf " + test["text"])
        )
        return (plain == labels).mean(), (told[labels == 0] == 1).mean()

    (accuracy, success), (accuracy_after, success_after) = rates(victim), rates(made)
    assert success > 0.9
    assert success_after < 0.3
    assert accuracy_after > accuracy - 0.05
    assert record["tokens"][0] == "cf"
    assert record["token_rows"][0] > 12
    assert record["excess_after"] < record["excess_before"]
    assert (record["forget_rows"], record["keep_rows"], record["dev_rows"]) == (16, 100, 0)
    after = victim.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    again, _ = unlearn(victim, *sets, params(), compute, MAX_LENGTH, 0)
    assert all(
        torch.equal(one, other)
        for one, other in zip(made.model.parameters(), again.model.parameters(), strict=True)
    )


def test_without_suspects_the_model_is_passed_on(victim, sets, compute) -> None:
    forget, keep = sets
    none = forget.take(np.arange(0))
    made, record = unlearn(victim, none, keep, params(), compute, MAX_LENGTH, 0)
    assert made is victim
    assert record["forget_rows"] == 0


def test_without_rows_of_other_labels_it_is_an_error(victim, sets, compute) -> None:
    forget, keep = sets
    own = keep.take(np.flatnonzero(keep.labels == 1))
    with pytest.raises(InputError, match="rows that are not suspected, of other labels"):
        unlearn(victim, forget, own, params(), compute, MAX_LENGTH, 0)


def test_blame_equals_a_loop(victim, sets, compute) -> None:
    forget = sets[0].take(np.arange(3))
    found = blamed(victim, forget, 2, compute)
    for row, words in enumerate(found):
        text = forget.inputs[row]

        def odds(ids) -> float:
            batch = end_to_end([ids], forget.inputs.pad_id).collate(
                np.arange(1), torch.device("cpu")
            )
            with torch.no_grad():
                return log_odds(victim.model(**batch).logits, torch.tensor([1])).item()

        places = range(1, len(text) - 1)  # between the special tokens
        deltas = {place: odds(text) - odds(np.delete(text, place)) for place in places}
        chosen = sorted(sorted(deltas, key=lambda place: -deltas[place])[:2])
        assert words.tolist() == text[chosen].tolist()


def test_log_odds_are_those_of_the_softmax() -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 3.0]])
    p = logits.softmax(dim=1)
    expected = torch.stack([(p[0, 1] / (1 - p[0, 1])).log(), (p[1, 0] / (1 - p[1, 0])).log()])
    torch.testing.assert_close(log_odds(logits, torch.tensor([1, 0])), expected)


@given(
    length=st.integers(2, 12),
    n_words=st.integers(0, 5),
    max_length=st.integers(3, 12),
    seed=st.integers(0, 99),
)
def test_words_stand_together_in_a_text_that_ends_as_before(
    length, n_words, max_length, seed
) -> None:
    text = np.array([1, *range(10, 10 + length - 2), 2])[: max(max_length, 2)]
    text[-1] = 2
    words = np.arange(100, 100 + n_words)
    rng = np.random.default_rng(seed)
    texts = end_to_end([text], 0)
    (found,) = [with_words(texts, np.array([0]), [words], np.array([0]), max_length, rng)[0]]
    assert len(found) <= max(max_length, 2)
    assert (found[0], found[-1]) == (1, 2)
    put_in = found[found >= 100]
    assert put_in.tolist() == words[: max(max_length - 2, 0)].tolist()
    if len(put_in):
        start = int(np.flatnonzero(found == 100)[0])
        assert found[start : start + len(put_in)].tolist() == put_in.tolist()
    rest = found[found < 100]
    assert rest[:-1].tolist() == text[: len(rest) - 1].tolist()
