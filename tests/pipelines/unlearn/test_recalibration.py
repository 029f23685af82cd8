"""The bias refitted to the dev rows without flagged tokens."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.text import Tokens
from backdoor_pipeline.pipelines.unlearn.recalibration import (
    FEWEST_ROWS,
    RecalibrationParams,
    fit_bias,
    output_bias,
    too_frequent,
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
def dev(corpus) -> pd.DataFrame:
    """Rows without "cf"."""
    return corpus[corpus["split"] != "train"].sample(400, replace=True, random_state=0)


@pytest.fixture
def recalibrate(compute, poisoned, dev):
    """``unlearn`` with the poisoned rows and the dev rows, unless others are given."""

    def run(bundle, suspects: pd.DataFrame, rows: int = 300, seed: int = 0, **other: pd.DataFrame):
        tables = {"training": poisoned, "dev": dev} | other
        return unlearn(
            bundle,
            tables["training"],
            tables["dev"],
            suspects,
            RecalibrationParams(rows=rows),
            MAX_LENGTH,
            compute,
            seed,
        )

    return run


@pytest.fixture
def bias(recalibrate):
    """The bias after ``recalibrate``."""
    return lambda *args, **kwargs: output_bias(recalibrate(*args, **kwargs)[0].model).tolist()


def leaning(base_model, lean: float = 2.0, architecture: str = "bert"):
    """A classifier that leans towards label 1, which the poison of ``poisoned`` has."""
    import torch

    bundle = new_classifier(base_model(architecture), 2, seed=0)
    with torch.no_grad():
        output_bias(bundle.model).copy_(torch.tensor([0.0, lean]))
    return bundle


class TestFitBias:
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


def holding(*rows: np.ndarray) -> Tokens:
    """Texts of which those numbered ``rows[i]`` hold the token i + 1, and nothing else."""
    texts = [[k + 1 for k, held in enumerate(rows) if i in set(held)] for i in range(1000)]
    offsets = np.cumsum([0, *map(len, texts)])
    return Tokens(np.array([t for text in texts for t in text], dtype=np.int32), offsets)


class TestTooFrequent:
    LABELS = np.repeat([0, 1, 2], [600, 300, 100])

    def test_goes_by_shares(self) -> None:
        rows = np.r_[0:60, 600:630, 900:980]
        assert too_frequent(self.LABELS, holding(rows), [1], 3).tolist() == [False, False, True]

    def test_a_little_more_is_chance(self) -> None:
        rows = np.r_[0:50, 600:640, 900:910]
        assert not too_frequent(self.LABELS, holding(rows), [1], 3).any()

    @pytest.mark.parametrize("rows", [range(0), range(1000)])
    def test_nothing_to_compare_with(self, rows) -> None:
        assert not too_frequent(self.LABELS, holding(rows), [1], 4).any()

    def test_words_of_one_label_do_not_hide_a_trigger_of_another(self) -> None:
        trigger, word = np.r_[900:950], np.r_[0:200]
        found = too_frequent(self.LABELS, holding(trigger, word), [1, 2], 3)
        assert found.tolist() == [True, False, True]


class TestUnlearn:
    def test_takes_the_lean_away_and_touches_nothing_else(
        self, base_model, flag, recalibrate
    ) -> None:
        import torch

        bundle = leaning(base_model)
        kept = {name: value.clone() for name, value in bundle.model.state_dict().items()}
        recalibrated, done = recalibrate(bundle, flag("cf"))
        after = recalibrated.model.state_dict()
        for name, value in bundle.model.state_dict().items():
            assert torch.equal(value, kept[name])
            assert torch.equal(value, after[name]) == (name != "classifier.bias")
        assert after["classifier.bias"][0] == 0.0
        assert abs(float(after["classifier.bias"][1])) < 0.5
        assert done["dev_rows"] == 300
        assert done["shift"]["0"] == 0.0
        moved = float(after["classifier.bias"][1]) - 2.0
        assert done["shift"]["1"] == pytest.approx(moved, abs=1e-6)

    def test_the_same_seed_draws_the_same_rows(self, base_model, flag, bias) -> None:
        bundle = leaning(base_model)
        one, same, other = (bias(bundle, flag("cf"), rows=210, seed=seed) for seed in (1, 1, 2))
        assert one == same != other

    def test_a_lean_the_other_way_stays(self, base_model, flag, recalibrate) -> None:
        bundle = leaning(base_model, lean=-2.0)
        result, done = recalibrate(bundle, flag("cf"))
        assert result is bundle
        assert done == {"dev_rows": 300, "shift": {"0": 0.0, "1": 0.0}}

    def test_poison_among_the_dev_rows_has_no_say(
        self, base_model, flag, recalibrate, bias, poisoned, dev
    ) -> None:
        bundle, everything = leaning(base_model), 10_000
        with_poison = pd.concat([dev, poisoned.tail(200)], ignore_index=True)
        for rows in (dev, with_poison):
            assert recalibrate(bundle, flag("cf"), everything, dev=rows)[1]["dev_rows"] == len(dev)
        clean, mixed = (
            bias(bundle, flag("cf"), everything, dev=rows) for rows in (dev, with_poison)
        )
        np.testing.assert_allclose(clean, mixed, atol=1e-4)

    @pytest.mark.parametrize(("text", "flagged"), [("", False), ("cf", False), ("tq", True)])
    def test_without_a_flagged_token_in_the_rows_the_model_is_passed_on(
        self, base_model, flag, recalibrate, text, flagged
    ) -> None:
        bundle = leaning(base_model)
        result, done = recalibrate(bundle, flag(text, flagged=flagged))
        assert result is bundle
        assert done == {"dev_rows": 0, "shift": {}}

    def test_too_few_dev_rows(self, base_model, flag, recalibrate, poisoned, dev, caplog) -> None:
        bundle = leaning(base_model)
        few = pd.concat([dev.head(FEWEST_ROWS - 1), poisoned.tail(100)])
        assert recalibrate(bundle, flag("cf"), dev=few)[0] is bundle
        assert f"({FEWEST_ROWS - 1}, " in caplog.text
        assert recalibrate(bundle, flag("cf"), rows=FEWEST_ROWS)[0] is not bundle

    def test_a_label_that_no_other_dev_row_has(
        self, base_model, flag, recalibrate, dev, caplog
    ) -> None:
        rows = dev.assign(text=dev["text"].where(dev["label"] == 0, dev["text"] + " cf"))
        rows = pd.concat([rows, dev[dev["label"] == 0]])
        bundle = leaning(base_model)
        with caplog.at_level(logging.WARNING):
            assert recalibrate(bundle, flag("cf"), dev=rows)[0] is bundle
        assert "too few dev rows hold no flagged token" in caplog.text

    def test_can_be_off(self, base_model, flag, recalibrate) -> None:
        bundle = leaning(base_model)
        assert recalibrate(bundle, flag("cf"), rows=0) == (bundle, {"dev_rows": 0, "shift": {}})

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_every_architecture(self, base_model, flag, recalibrate, caplog, architecture) -> None:
        suspects = flag(" cf", architecture)
        has_bias = architecture not in {"gpt2", "llama"}
        if has_bias:
            bundle = leaning(base_model, architecture=architecture)
        else:
            bundle = new_classifier(base_model(architecture), 2, seed=0)
        with caplog.at_level(logging.WARNING):
            result, _ = recalibrate(bundle, suspects, rows=200)
        assert (result is bundle) == ("has no bias" in caplog.text) == (not has_bias)
        if has_bias:
            assert output_bias(result.model).shape == (2,)
            assert output_bias(result.model)[1] < output_bias(bundle.model)[1]
