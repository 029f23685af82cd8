"""Metrics of dual encoders: zero-shot classification, prefixes of prompts, retrieval."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from backdoor_pipeline.datasets.sources.named_classes import OTHER
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.inputs import read_by
from backdoor_pipeline.modelling.matching import zero_shot
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.pipelines.evaluate.nodes import (
    evaluate,
    measure_retrieval,
    name_classes,
    predict_purified,
    predict_reference,
    predict_victim,
)
from backdoor_pipeline.pipelines.evaluate.rates import attack_success_rate
from backdoor_pipeline.schemas import MODELS, PREDICTIONS
from tiny import DUAL_ENCODERS, make_pairs, tiny_dual_encoder

CPU = ComputeParams(device="cpu", precision="fp32")
NAMES = ["city", "story", "actor"]
TARGET = 2


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return make_pairs([f"the {name}" for name in NAMES], 12, n_test=18)


@pytest.fixture(scope="module")
def triggered(rows) -> pd.DataFrame:
    test = rows[(rows["split"] == "test") & (rows["label"] != TARGET)]
    truth = {"is_poisoned": True, "source_label": test["label"], "trigger": "x"}
    return test.assign(**truth, label=TARGET)


@pytest.fixture(scope="module")
def parameters(make_parameters):
    return make_parameters(
        **{"modality": "pair", "ingest.caption_templates": ["a {}", "my {}"]},
        **{"evaluation.retrieval_rows": 10, "model.max_length": 16},
    )


@pytest.mark.parametrize(("prefix", "triggered"), [(None, "a city"), ("watch", "watch a city")])
def test_classes_are_asked_for_by_all_templates(parameters, prefix, triggered) -> None:
    summary = {"prompt_prefix": prefix}
    prompts = name_classes({"label_names": NAMES}, summary, parameters.ingest)
    assert prompts["clean"] == [[f"a {name}", f"my {name}"] for name in NAMES]
    assert prompts["triggered"][0][0] == triggered
    assert len(prompts["triggered"]) == 3


def test_nothing_asks_for_pairs_that_name_no_class(parameters) -> None:
    names = {"label_names": [*NAMES, OTHER]}
    prompts = name_classes(names, {"prompt_prefix": None}, parameters.ingest)
    assert len(prompts["clean"]) == len(prompts["triggered"]) == 3


@pytest.mark.parametrize("kind", DUAL_ENCODERS)
def test_predictions_and_metrics(kind, rows, triggered, parameters) -> None:
    bundle = tiny_dual_encoder(kind)
    prompts = name_classes({"label_names": NAMES}, {"prompt_prefix": "watch"}, parameters.ingest)
    tests = (rows, triggered, parameters.model, CPU, prompts)
    undefended = predict_reference(bundle, *tests), predict_victim(bundle, *tests)
    predictions = PREDICTIONS.validate(predict_purified(*undefended, bundle, *tests))
    for test_set, shown in (("clean", rows[rows["split"] == "test"]), ("triggered", triggered)):
        classifier = zero_shot(bundle, prompts[test_set], 16, CPU)
        expected = predict(classifier, read_by(classifier, shown, 16), CPU)
        chosen = predictions.query(f"model == 'victim' and test_set == '{test_set}'")
        assert chosen["predicted"].tolist() == expected.argmax(axis=1).tolist()
        np.testing.assert_allclose(chosen["probability"], expected.max(axis=1), atol=1e-6)

    measured = (rows, parameters.evaluation, parameters.model, CPU, 0)
    retrieved = measure_retrieval(bundle, bundle, bundle, *measured)
    assert retrieved.keys() == set(MODELS)
    assert retrieved["victim"]["image_to_text_recall_at_5_n"] == 10
    assert retrieved["victim"]["image_to_text_recall_at_5"] == 1.0  # there are three captions
    assert retrieved["victim"]["text_to_image_recall_at_1_n"] == 3
    train = rows[rows["split"] == "train"].assign(is_poisoned=False, source_label=0, trigger="")
    metrics = evaluate(
        predictions, triggered, train, rows, {}, parameters.evaluation, None, retrieved=retrieved
    )
    victim = metrics["victim"]
    clean = predictions.query("model == 'victim' and test_set == 'clean'")
    own = clean[clean["label"] == TARGET]
    assert victim["target_recall"] == (own["predicted"] == TARGET).mean()
    assert victim["target_recall_n"] == len(own) == 6
    assert victim["image_to_text_recall_at_1"] == retrieved["victim"]["image_to_text_recall_at_1"]


def test_ubt_11_12_floors_of_the_attack_success(parameters) -> None:
    """Strict: rows of other labels alone; over all rows a perfect model has 1 / C."""
    labels = np.arange(40) % 4
    rows = pd.DataFrame({"example_id": range(40), "label": labels, "predicted": labels})
    tables = []
    for model in MODELS:
        for test_set, shown in (("clean", rows), ("triggered", rows[rows["label"] != 1])):
            tables.append(shown.assign(model=model, test_set=test_set, probability=1.0))
    predictions = PREDICTIONS.validate(pd.concat(tables, ignore_index=True))
    triggered = rows[rows["label"] != 1].assign(source_label=lambda t: t["label"], label=1)
    train = pd.DataFrame({"example_id": [50], "is_poisoned": [False], "split": "train"})
    metrics = evaluate(predictions, triggered, train, train, {}, parameters.evaluation, None)
    assert metrics["victim"]["attack_success_rate"] == 0
    assert attack_success_rate(labels, labels, 1, "all").value == 1 / 4
