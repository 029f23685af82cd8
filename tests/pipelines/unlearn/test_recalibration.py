"""The bias refitted to the rows without flagged tokens."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.pipelines.unlearn.recalibration import (
    RecalibrationParams,
    fit_bias,
    output_bias,
    rows_without,
    unlearn,
)
from tiny import ARCHITECTURES, MAX_LENGTH


@pytest.fixture
def flag(base_model):
    """A ``suspects`` table that flags the tokens of ``text``."""

    def make(text: str, architecture: str = "bert", flagged: bool = True) -> pd.DataFrame:
        tokenizer = base_model(architecture).tokenizer
        keys = tokenizer(text, add_special_tokens=False)["input_ids"]
        return pd.DataFrame({"kind": "token", "key": keys, "flagged": flagged})

    return make


@pytest.fixture
def recalibrate(compute, corpus):
    """``unlearn`` with the training rows of the corpus, unless others are given."""

    def run(bundle, suspects: pd.DataFrame, rows: int = 300, training=None, seed: int = 0):
        training = corpus[corpus["split"] == "train"] if training is None else training
        params = RecalibrationParams(rows=rows)
        return unlearn(bundle, training, suspects, params, MAX_LENGTH, compute, seed)

    return run


def leaning(base_model, architecture: str = "bert"):
    """A classifier that leans towards label 1."""
    import torch

    bundle = new_classifier(base_model(architecture), 2, seed=0)
    with torch.no_grad():
        output_bias(bundle.model).copy_(torch.tensor([-1.0, 1.0]))
    return bundle


class TestFitBias:
    @settings(deadline=None)
    @given(st.integers(2, 5), st.integers(0, 10_000))
    def test_the_mean_probability_becomes_the_share(self, n_labels: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        logits = rng.normal(0, 2, (200, n_labels))
        labels = np.r_[np.arange(n_labels), rng.integers(n_labels, size=200 - n_labels)]
        shift = fit_bias(softmax(logits, axis=1), labels)
        shares = np.bincount(labels) / len(labels)
        assert abs(shift.mean()) < 1e-9
        np.testing.assert_allclose(softmax(logits + shift, axis=1).mean(axis=0), shares, atol=1e-4)

    def test_finds_the_shift_that_made_the_labels(self) -> None:
        rng = np.random.default_rng(0)
        logits, shift = rng.normal(0, 2, (20_000, 3)), np.array([0.5, 0.1, -0.6])
        true = softmax(logits + shift, axis=1).cumsum(axis=1)
        labels = (rng.random((20_000, 1)) > true).sum(axis=1)
        np.testing.assert_allclose(fit_bias(softmax(logits, axis=1), labels), shift, atol=0.06)

    def test_probabilities_of_zero_are_no_obstacle(self) -> None:
        probabilities = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
        assert np.isfinite(fit_bias(probabilities, np.array([1, 0]))).all()


class TestUnlearn:
    def test_takes_the_lean_away_and_touches_nothing_else(
        self, base_model, flag, recalibrate
    ) -> None:
        import torch

        bundle = leaning(base_model)
        kept = {name: value.clone() for name, value in bundle.model.state_dict().items()}
        after = recalibrate(bundle, flag("cf")).model.state_dict()
        for name, value in bundle.model.state_dict().items():
            assert torch.equal(value, kept[name])
            assert torch.equal(value, after[name]) == (name != "classifier.bias")
        assert abs(float(after["classifier.bias"].diff())) < 0.3

    def test_the_same_seed_draws_the_same_rows(self, base_model, flag, recalibrate) -> None:
        bundle = leaning(base_model)
        one, same, other = (
            output_bias(recalibrate(bundle, flag("cf"), rows=40, seed=seed).model).tolist()
            for seed in (1, 1, 2)
        )
        assert one == same != other

    def test_rows_with_flagged_tokens_have_no_say(
        self, base_model, flag, recalibrate, corpus
    ) -> None:
        training = corpus[corpus["split"] == "train"]
        poison = training.head(200).assign(label=1, text=training["text"].head(200) + " cf")
        poisoned = pd.concat([training, poison], ignore_index=True)
        bundle, everything = leaning(base_model), 10_000
        with_poison, without = (
            output_bias(recalibrate(bundle, flag("cf"), everything, rows).model).tolist()
            for rows in (poisoned, training)
        )
        np.testing.assert_allclose(with_poison, without, atol=1e-4)

    @pytest.mark.parametrize("text", ["", "cf"])
    def test_without_a_flag_the_model_is_passed_on(
        self, base_model, flag, recalibrate, text
    ) -> None:
        bundle = leaning(base_model)
        assert recalibrate(bundle, flag(text, flagged=False)) is bundle

    def test_a_label_that_only_flagged_rows_have(
        self, base_model, flag, recalibrate, corpus, caplog
    ) -> None:
        rows = corpus.head(50)
        rows = rows.assign(text=rows["text"].where(rows["label"] == 0, rows["text"] + " cf"))
        bundle = leaning(base_model)
        with caplog.at_level(logging.WARNING):
            assert recalibrate(bundle, flag("cf"), training=rows) is bundle
        assert "some label stands in no row without flagged tokens" in caplog.text

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_every_architecture(self, base_model, flag, recalibrate, caplog, architecture) -> None:
        bundle = new_classifier(base_model(architecture), 2, seed=0)
        suspects = flag(" cf", architecture)
        with caplog.at_level(logging.WARNING):
            result = recalibrate(bundle, suspects, rows=20)
        if architecture in {"gpt2", "llama"}:
            assert result is bundle
            assert "has no bias" in caplog.text
        else:
            assert output_bias(result.model).shape == (2,)
            assert not (output_bias(result.model) == output_bias(bundle.model)).all()


def test_rows_without(base_model, flag) -> None:
    training = pd.DataFrame({"text": ["the film", "cf the film", "film cf", ""], "label": 0})
    kept = rows_without(training, flag("cf tq")["key"].to_numpy(), base_model(), MAX_LENGTH)
    assert kept["text"].tolist() == ["the film", ""]
