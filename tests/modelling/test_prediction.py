"""Forward passes: independent of batches and of the order of the texts."""

from __future__ import annotations

import numpy as np
import pytest

from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.prediction import embed, predict
from backdoor_pipeline.modelling.text import Tokens, tokenise
from tiny import ARCHITECTURES


@pytest.fixture(scope="module")
def texts(corpus) -> list[str]:
    return [*corpus["text"].head(20), "film", "the film " * 12]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("function", [predict, embed])
def test_neither_batches_nor_order_matter(
    base_model, compute, texts, monkeypatch, architecture, function
) -> None:
    bundle = new_classifier(base_model(architecture), n_classes=3, seed=0)
    all_at_once = function(bundle, tokenise(texts, bundle.tokenizer, 32), compute)
    monkeypatch.setattr("backdoor_pipeline.modelling.prediction.BATCH_ROWS", 3)
    backwards = function(bundle, tokenise(texts[::-1], bundle.tokenizer, 32), compute)
    np.testing.assert_allclose(all_at_once, backwards[::-1], atol=2e-5)


def test_probabilities_sum_to_one(base_model, compute, texts) -> None:
    bundle = new_classifier(base_model(), n_classes=3, seed=0)
    probabilities = predict(bundle, tokenise(texts, bundle.tokenizer, 32), compute)
    assert probabilities.shape == (len(texts), 3)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_the_model_keeps_its_mode_and_its_weights(base_model, compute, texts) -> None:
    bundle = new_classifier(base_model(), n_classes=2, seed=0)
    bundle.model.train()
    before = {name: value.clone() for name, value in bundle.model.state_dict().items()}
    predict(bundle, tokenise(texts, bundle.tokenizer, 32), compute)
    assert bundle.model.training
    assert all((bundle.model.state_dict()[name] == value).all() for name, value in before.items())


def test_a_text_without_tokens_has_a_prediction(base_model, compute) -> None:
    bundle = new_classifier(base_model(), n_classes=2, seed=0)
    nothing = Tokens(np.empty(0, dtype=np.int32), np.zeros(3, dtype=np.int64))
    assert np.isfinite(predict(bundle, nothing, compute)).all()


def test_no_texts_are_no_predictions(base_model, compute) -> None:
    bundle = new_classifier(base_model(), n_classes=2, seed=0)
    assert len(predict(bundle, tokenise([], bundle.tokenizer, 32), compute)) == 0
