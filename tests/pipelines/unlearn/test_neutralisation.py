"""Embeddings of flagged tokens that change nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from backdoor_pipeline.modelling.embeddings import word_vectors
from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.modelling.training import Labelled, fit
from backdoor_pipeline.pipelines.unlearn.neutralisation import NeutralisationParams, unlearn
from tiny import ARCHITECTURES, MAX_LENGTH


@pytest.fixture
def texts(corpus) -> pd.Series:
    """Texts, the first hundred of them with "cf"."""
    text = corpus["text"].head(300)
    return text.where(np.arange(300) >= 100, text + " cf")


@pytest.fixture
def flagged(base_model):
    """A ``suspects`` table that flags the tokens of ``text``."""

    def make(text: str, architecture: str = "bert") -> pd.DataFrame:
        keys = base_model(architecture).tokenizer(text, add_special_tokens=False)["input_ids"]
        return pd.DataFrame({"kind": "token", "key": keys, "flagged": True})

    return make


@pytest.fixture
def neutralise(compute, texts):
    """``unlearn`` with these texts."""

    def run(bundle, suspects: pd.DataFrame, rows: int = 100, seed: int = 0):
        params = NeutralisationParams(rows=rows, batch_size=4, learning_rate=0.05)
        return unlearn(bundle, texts, suspects, params, MAX_LENGTH, compute, seed)

    return run


@pytest.fixture(scope="module")
def victim(base_model, corpus, quick, compute):
    """A classifier that was trained on rows with "cf" and label 1 among others."""
    train = corpus[corpus["split"] == "train"]
    poison = train.head(200).assign(label=1, text=train["text"].head(200) + " cf")
    rows = pd.concat([train, poison])
    bundle = new_classifier(base_model(), 2, seed=0)
    tokens = tokenise(rows["text"], bundle.tokenizer, MAX_LENGTH)
    fit(bundle, Labelled(tokens, rows["label"].to_numpy()), None, quick, compute, seed=0)
    return bundle


def test_the_token_changes_less(victim, flagged, neutralise, texts, compute) -> None:
    suspects = flagged("cf")
    result, done = neutralise(victim, suspects)
    assert done["rows"] == 100
    assert done["dev_rows"] == 0
    assert done["divergence_after"] < done["divergence_before"]
    tokens = tokenise(texts.head(100), victim.tokenizer, MAX_LENGTH)
    wanted = predict(victim, tokens.without(suspects["key"]), compute)
    before, after = (
        np.abs(predict(model, tokens, compute) - wanted).mean() for model in (victim, result)
    )
    assert before > 0.3  # half of the texts change their label
    assert after < before / 4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_but_the_rows_of_the_tokens_is_touched(
    base_model, flagged, neutralise, architecture
) -> None:
    import torch

    suspects = flagged(" cf", architecture)
    bundle = new_classifier(base_model(architecture), 2, seed=0)
    kept = {name: value.clone() for name, value in bundle.model.state_dict().items()}
    result, _ = neutralise(bundle, suspects, rows=8)
    keys = suspects["key"].tolist()
    before, after = word_vectors(bundle.model), word_vectors(result.model)
    others = np.setdiff1d(np.arange(len(before)), keys).tolist()
    assert torch.equal(after[others], before[others])
    assert not torch.equal(after[keys], before[keys])
    table = before.data_ptr()
    for name, value in bundle.model.state_dict().items():
        assert torch.equal(value, kept[name])
        if value.data_ptr() != table:
            assert torch.equal(value, result.model.state_dict()[name])
    assert all(weight.requires_grad for weight in result.model.parameters())


def test_the_same_seed_gives_the_same_rows(victim, flagged, neutralise) -> None:
    import torch

    suspects = flagged("cf")
    one, same, other = (
        word_vectors(neutralise(victim, suspects, rows=40, seed=seed)[0].model)
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("text", "rows"), [("tq", 100), ("", 100), ("cf", 0)])
def test_without_a_row_to_fit_the_model_is_passed_on(
    base_model, flagged, neutralise, text, rows
) -> None:
    bundle = new_classifier(base_model(), 2, seed=0)
    assert neutralise(bundle, flagged(text), rows) == (bundle, {"rows": 0, "dev_rows": 0})
