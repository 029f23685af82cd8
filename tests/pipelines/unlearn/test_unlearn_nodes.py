"""The nodes of the stage, and the optional fine-tune."""

from __future__ import annotations

import pandas as pd
import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.embeddings import word_vectors
from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.pipelines.unlearn.fine_tune import FineTuneParams, clean_rows
from backdoor_pipeline.pipelines.unlearn.nodes import (
    UNLEARNERS,
    fine_tune_lightly,
    plan_last_layers,
    replace_tokens,
)
from backdoor_pipeline.pipelines.unlearn.pipeline import create_pipeline
from backdoor_pipeline.recipes import Recipe


@pytest.fixture
def tune(base_model, model_params, compute, quick, corpus):
    """Fine-tunes ``bundle`` on so many clean rows."""

    def run(bundle, rows: int, seed: int = 0):
        params = FineTuneParams(rows=rows, optimisation=quick)
        return fine_tune_lightly(bundle, corpus, params, model_params(), compute, seed)

    return run


def test_without_rows_the_model_is_passed_on(base_model, tune) -> None:
    bundle = new_classifier(base_model(), 2, seed=0)
    assert tune(bundle, 0) == (bundle, {"dev_rows": 0})


def test_tunes_a_copy_the_same_way_for_a_seed(base_model, tune) -> None:
    import torch

    bundle = new_classifier(base_model(), 2, seed=0)
    before = bundle.model.classifier.weight.clone()
    results = [tune(bundle, 30, seed) for seed in (1, 1, 2)]
    assert [record for _, record in results] == [{"dev_rows": 30}] * 3
    first, again, other = (tuned.model.classifier.weight for tuned, _ in results)
    assert torch.equal(bundle.model.classifier.weight, before)
    assert not torch.equal(first, before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_uses_dev_rows_alone_and_no_more_than_there_are(corpus, quick) -> None:
    rows = clean_rows(corpus, FineTuneParams(rows=10_000, optimisation=quick), seed=0)
    assert set(rows["split"]) == {"dev"}
    assert len(rows) == (corpus["split"] == "dev").sum()


def test_the_number_of_rows_is_not_negative(quick) -> None:
    with pytest.raises(ValueError, match="rows"):
        FineTuneParams(rows=-1, optimisation=quick)


@pytest.mark.parametrize("unlearner", UNLEARNERS)
def test_every_unlearner_makes_a_pipeline(unlearner) -> None:
    pipeline = create_pipeline(Recipe("token_drift", (unlearner,)))
    assert {"victim_model", f"params:{unlearner}"} <= pipeline.inputs()
    assert pipeline.outputs() == {"purified_model", f"{unlearner}_record"}


def test_unlearners_follow_each_other() -> None:
    names = ("token_replacement", "recalibration", "fine_tune")
    pipeline = create_pipeline(Recipe("token_drift", names))
    assert [node.name for node in pipeline.nodes] == [f"unlearn_by_{name}" for name in names]
    assert pipeline.outputs() == {"purified_model", *(f"{name}_record" for name in names)}


def test_the_record_counts_what_was_overwritten(base_model, model_params, make_parameters) -> None:
    import torch

    base, victim = base_model(), new_classifier(base_model(), 2, seed=0)
    with torch.no_grad():
        word_vectors(victim.model)[9, :3] += 1.0
    suspects = pd.DataFrame({"kind": "token", "key": [8, 9], "flagged": True})
    params = make_parameters(**{"token_replacement.replacement": "pretrained"}).token_replacement
    no_rows = pd.DataFrame({"example_id": [], "text": []})
    purified, record = replace_tokens(victim, base, no_rows, suspects, params, model_params())
    assert record == {"tokens": 1, "dimensions": 3, "dev_rows": 0}
    assert torch.equal(word_vectors(purified.model), word_vectors(base.model))


def test_more_last_layers_than_a_classifier_of_texts_has_are_told_at_once(
    base_model, model_params, corpus, make_parameters
) -> None:
    def plan(k):
        params = make_parameters(**{"retraining.last_layers": k}).retraining
        return plan_last_layers(corpus, params, model_params(), 0, base_model())

    assert plan(None) == {"modules": None}
    assert plan(1) == {"modules": 1}
    with pytest.raises(InputError, match=r"last_layers is 999, but the model has \d+ layers"):
        plan(999)
