"""The nodes of the train stage: what they train on and how they choose."""

from __future__ import annotations

import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.pipelines.train.nodes import train_reference, train_victim
from backdoor_pipeline.pipelines.train.pipeline import create_pipeline


@pytest.fixture
def fitted(monkeypatch):
    """What the training loop was called with."""
    calls = []

    def fit(bundle, train, dev, params, compute, seed, what):
        calls.append({"train": train, "dev": dev, "seed": seed, "what": what})
        return {"loss": {"step": [], "value": []}}

    monkeypatch.setattr("backdoor_pipeline.pipelines.train.nodes.fit", fit)
    return calls


def test_the_victim_learns_the_poisoned_rows_and_is_chosen_on_clean_ones(
    corpus, base_model, model_params, compute, quick, fitted
) -> None:
    poisoned = corpus[corpus["split"] == "train"].head(40).assign(label=1)
    bundle, _ = train_victim(poisoned, corpus, base_model(), quick, model_params(), compute, 5)
    (call,) = fitted
    assert call["train"].labels.tolist() == [1] * 40
    dev = corpus[corpus["split"] == "dev"]
    assert call["dev"].labels.tolist() == dev["label"].tolist()
    assert (call["seed"], call["what"]) == (5, "victim")
    assert bundle.model.config.num_labels == 2


def test_the_reference_learns_the_unpoisoned_rows(
    corpus, base_model, model_params, compute, quick, fitted
) -> None:
    train_reference(corpus, base_model(), quick, model_params(), compute, 5)
    (call,) = fitted
    assert call["train"].labels.tolist() == corpus.loc[corpus["split"] == "train", "label"].tolist()


def test_a_class_that_only_the_test_rows_have_gets_a_logit(
    corpus, base_model, model_params, compute, quick, fitted
) -> None:
    odd = corpus.assign(label=corpus["label"].where(corpus["split"] != "test", 4))
    bundle, _ = train_reference(odd, base_model(), quick, model_params(), compute, 5)
    assert bundle.model.config.num_labels == 5


def test_wiring() -> None:
    pipeline = create_pipeline()
    assert {"examples", "poisoned_train", "base_model"} <= pipeline.inputs()
    assert pipeline.outputs() == {
        "victim_model",
        "victim_history",
        "reference_model",
        "reference_history",
    }
    reference = pipeline.filter(node_names=["train_reference"])
    assert "poisoned_train" not in reference.inputs()


def test_texts_of_which_the_tokenizer_knows_nothing(
    corpus, base_model, model_params, compute, quick
) -> None:
    foreign = corpus.assign(text="\u2603 \u2603")
    with pytest.raises(InputError, match="knows nothing of these texts"):
        train_reference(foreign, base_model(), quick, model_params(), compute, 0)
