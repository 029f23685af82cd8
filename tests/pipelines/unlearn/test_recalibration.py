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
    FEWEST_ROWS,
    RecalibrationParams,
    fit_bias,
    output_bias,
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
def poisoned(corpus) -> pd.DataFrame:
    """Training rows, and some more with "cf" and label 1."""
    training = corpus[corpus["split"] == "train"]
    poison = training.head(200).assign(label=1, text=training["text"].head(200) + " cf")
    return pd.concat([training, poison], ignore_index=True)


@pytest.fixture
def recalibrate(compute, poisoned):
    """``unlearn`` with the poisoned rows, unless others are given."""

    def run(bundle, suspects: pd.DataFrame, rows: int = 300, training=None, seed: int = 0):
        training = poisoned if training is None else training
        params = RecalibrationParams(rows=rows)
        return unlearn(bundle, training, suspects, params, MAX_LENGTH, compute, seed)

    return run


def leaning(base_model, lean: float = 2.0, architecture: str = "bert"):
    """A classifier that leans towards label 1, which the poison of ``poisoned`` has."""
    import torch

    bundle = new_classifier(base_model(architecture), 2, seed=0)
    with torch.no_grad():
        output_bias(bundle.model).copy_(torch.tensor([0.0, lean]))
    return bundle


class TestFitBias:
    @settings(deadline=None)
    @given(st.integers(2, 5), st.integers(0, 10_000))
    def test_suspicious_labels_fall_to_their_share_and_none_rises(
        self, n_labels: int, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        logits = rng.normal(0, 2, (200, n_labels)) + rng.normal(0, 1, n_labels)
        labels = np.r_[np.arange(n_labels), rng.integers(n_labels, size=200 - n_labels)]
        suspicious = rng.random(n_labels) < 0.5
        shift = fit_bias(softmax(logits, axis=1), labels, suspicious)
        assert (shift <= 0).all()
        assert (shift[~suspicious] == 0).all()
        means = softmax(logits + shift, axis=1).mean(axis=0)
        shares = np.bincount(labels) / len(labels)
        fallen = shift < 0
        np.testing.assert_allclose(means[fallen], shares[fallen], atol=1e-3)
        held = suspicious & ~fallen
        assert (means[held] <= shares[held] + 1e-3).all()

    def test_finds_the_lean(self) -> None:
        rng = np.random.default_rng(0)
        logits, shift = rng.normal(0, 2, (20_000, 3)), np.array([0.0, -0.4, 0.0])
        true = softmax(logits + shift, axis=1).cumsum(axis=1)
        labels = (rng.random((20_000, 1)) > true).sum(axis=1)
        found = fit_bias(softmax(logits, axis=1), labels, np.array([False, True, False]))
        np.testing.assert_allclose(found, shift, atol=0.06)

    def test_probabilities_of_zero_are_no_obstacle(self) -> None:
        probabilities = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
        shift = fit_bias(probabilities, np.array([1, 0]), np.array([True, False]))
        assert np.isfinite(shift).all()


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
        assert after["classifier.bias"][0] == 0.0
        assert abs(float(after["classifier.bias"][1])) < 0.5

    def test_the_same_seed_draws_the_same_rows(self, base_model, flag, recalibrate) -> None:
        bundle = leaning(base_model)
        one, same, other = (
            output_bias(recalibrate(bundle, flag("cf"), rows=210, seed=seed).model).tolist()
            for seed in (1, 1, 2)
        )
        assert one == same != other

    def test_a_lean_the_other_way_stays(self, base_model, flag, recalibrate) -> None:
        bundle = leaning(base_model, lean=-2.0)
        assert output_bias(recalibrate(bundle, flag("cf")).model).tolist() == [0.0, -2.0]

    def test_rows_with_flagged_tokens_have_no_say(
        self, base_model, flag, recalibrate, poisoned
    ) -> None:
        bundle, everything = leaning(base_model), 10_000
        twice = pd.concat([poisoned, poisoned.tail(200)], ignore_index=True)
        once, again = (
            output_bias(recalibrate(bundle, flag("cf"), everything, rows).model).tolist()
            for rows in (poisoned, twice)
        )
        np.testing.assert_allclose(once, again, atol=1e-4)

    def test_flagged_tokens_that_stand_nowhere(self, base_model, flag, recalibrate) -> None:
        bundle = leaning(base_model)
        assert output_bias(recalibrate(bundle, flag("tq")).model).tolist() == [0.0, 2.0]

    @pytest.mark.parametrize("text", ["", "cf"])
    def test_without_a_flag_the_model_is_passed_on(
        self, base_model, flag, recalibrate, text
    ) -> None:
        bundle = leaning(base_model)
        assert recalibrate(bundle, flag(text, flagged=False)) is bundle

    def test_too_few_rows_without_flagged_tokens(
        self, base_model, flag, recalibrate, poisoned, caplog
    ) -> None:
        bundle = leaning(base_model)
        few = pd.concat([poisoned.head(FEWEST_ROWS - 1), poisoned.tail(100)])
        assert recalibrate(bundle, flag("cf"), training=few) is bundle
        assert f"({FEWEST_ROWS - 1}, " in caplog.text
        assert recalibrate(bundle, flag("cf"), rows=FEWEST_ROWS - 1) is bundle

    def test_a_label_that_only_flagged_rows_have(
        self, base_model, flag, recalibrate, corpus, caplog
    ) -> None:
        rows = corpus.head(500)
        rows = rows.assign(text=rows["text"].where(rows["label"] == 0, rows["text"] + " cf"))
        bundle = leaning(base_model)
        with caplog.at_level(logging.WARNING):
            assert recalibrate(bundle, flag("cf"), training=rows) is bundle
        assert "too few training rows hold no flagged token" in caplog.text

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_every_architecture(self, base_model, flag, recalibrate, caplog, architecture) -> None:
        suspects = flag(" cf", architecture)
        if architecture in {"gpt2", "llama"}:
            bundle = new_classifier(base_model(architecture), 2, seed=0)
        else:
            bundle = leaning(base_model, architecture=architecture)
        with caplog.at_level(logging.WARNING):
            result = recalibrate(bundle, suspects, rows=200)
        if architecture in {"gpt2", "llama"}:
            assert result is bundle
            assert "has no bias" in caplog.text
        else:
            assert output_bias(result.model).shape == (2,)
            assert not (output_bias(result.model) == output_bias(bundle.model)).all()
