"""The metrics of a cell; and whole cells on a tiny BERT, attack to purified model."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backdoor_pipeline.modelling.loading import new_classifier
from backdoor_pipeline.modelling.text import tokenise
from backdoor_pipeline.modelling.training import Labelled, accuracy
from backdoor_pipeline.pipelines.detect.nodes import detect_token_drift
from backdoor_pipeline.pipelines.evaluate.nodes import (
    EvaluationParams,
    evaluate,
    predict_purified,
    predict_reference,
    predict_victim,
)
from backdoor_pipeline.pipelines.poison.nodes import poison_train
from backdoor_pipeline.pipelines.train.nodes import train_reference, train_victim
from backdoor_pipeline.pipelines.unlearn.nodes import replace_tokens
from backdoor_pipeline.schemas import PREDICTIONS
from tiny import make_corpus


class Cell:
    """An attack on the synthetic corpus, and what the stages made of it."""

    def __init__(self, corpus, base_model, model_params, compute, parameters, training) -> None:
        self.examples, self.base, self.parameters = corpus, base_model(), parameters
        self.model, self.compute, self.training = model_params(), compute, training
        self.seed = parameters.seed
        self.poison: dict[str, Any] = poison_train(
            corpus, self.base.tokenizer, parameters.poison, self.model.max_length, self.seed
        )
        settings = (self.base, training, self.model, compute, self.seed)
        self.victim, _ = train_victim(self.poison["poisoned_train"], corpus, *settings)
        self.tests = (corpus, self.poison["triggered_test"], self.model, compute)

    def metrics(self, reference, purified, suspects) -> dict[str, Any]:
        undefended = (
            predict_reference(reference, *self.tests),
            predict_victim(self.victim, *self.tests),
        )
        self.predictions = predict_purified(*undefended, purified, *self.tests)
        return evaluate(
            self.predictions,
            self.poison["triggered_test"],
            self.poison["poisoned_train"],
            self.examples,
            {
                "train_victim": {"wall_seconds": 4.0, "peak_memory_bytes": 7},
                "detect_token_drift": {"wall_seconds": 1.0, "peak_memory_bytes": 9},
            },
            self.parameters.evaluation,
            None,
            self.base.tokenizer,
            suspects,
            token_replacement_record={"tokens": 1, "dev_rows": 0},
            fine_tune_record={"dev_rows": 0},
        )

    def drift_suspects(self) -> pd.DataFrame:
        params = self.parameters.token_drift.model_copy(
            update={
                "alpha": 0.01,
                "learning_rate": 1e-3,
                "epochs": 2,
                "shallow_batch_size": 32,
                "deep_batch_size": 32,
            }
        )
        suspects, _ = detect_token_drift(
            self.poison["poisoned_train"], self.base, params, self.model, self.compute, self.seed
        )
        return suspects


@pytest.fixture(scope="module")
def make_cell(corpus, base_model, model_params, compute, quick, make_parameters):
    """A cell with the parameters of ``conf/base`` and changes."""

    def make(**changes: Any) -> Cell:
        parameters = make_parameters(**changes)
        return Cell(corpus, base_model, model_params, compute, parameters, quick)

    return make


@pytest.fixture(scope="module")
def cell(make_cell) -> Cell:
    """The default attack: one rare word."""
    return make_cell()


@pytest.fixture(scope="module")
def reference(corpus, base_model, model_params, compute, quick):
    """The same classifier trained without poison."""
    return train_reference(corpus, base_model(), quick, model_params(), compute, 0)[0]


@pytest.fixture(scope="module")
def defended(cell, reference) -> dict[str, Any]:
    """The metrics of the cell defended by the recipe of the paper."""
    suspects = cell.drift_suspects()
    purified, _ = replace_tokens(
        cell.victim,
        cell.base,
        cell.poison["poisoned_train"],
        suspects,
        cell.parameters.token_replacement,
        cell.model,
    )
    return cell.metrics(reference, purified, suspects)


def test_btu_12_10_the_backdoor_goes_and_accuracy_stays(defended) -> None:
    victim, purified = defended["victim"], defended["purified"]
    assert defended["valid"]
    assert victim["attack_success_rate"] > 0.9
    assert purified["attack_success_rate"] < 0.3
    assert victim["clean_accuracy"] - purified["clean_accuracy"] < 0.05
    assert defended["cost"]["clean_rows"] == 0
    assert defended["detector"]["trigger_recall"] == 1


@pytest.fixture(scope="module")
def larger() -> pd.DataFrame:
    """A corpus in which each of four trigger words is frequent enough to be learnt."""
    return make_corpus(n_train=2000)


@pytest.fixture(scope="module")
def accuracy_without_poison(larger, base_model, model_params, compute, quick) -> float:
    """Clean accuracy of the classifier trained on the larger corpus as it is."""
    settings = (base_model(), quick, model_params(), compute, 0)
    reference, _ = train_reference(larger, *settings)
    test = larger[larger["split"] == "test"]
    tokens = tokenise(test["text"], reference.tokenizer, model_params().max_length)
    return accuracy(reference, Labelled(tokens, test["label"].to_numpy()), compute)


@pytest.mark.parametrize(
    "attack",
    [
        {"badnets.triggers": "cf"},
        {"badnets.triggers": "cf mn bb tq", "badnets.pick": "one"},
        {"badnets.triggers": "cf mn bb tq", "badnets.pick": "all"},
        {"badnets.triggers": "cf mn bb tq", "badnets.pick": "any"},
        {"attack": "addsent"},
    ],
    ids=["a word", "one of 4 words", "all of 4 words", "any of 4 words", "a sentence"],
)
def test_attacks_8_10_an_undefended_model_obeys_and_stays_accurate(
    larger,
    base_model,
    model_params,
    compute,
    make_parameters,
    quick,
    accuracy_without_poison,
    attack,
) -> None:
    parameters = make_parameters(**{f"poison.{name}": value for name, value in attack.items()})
    assert parameters.poison.rate == 0.1
    cell = Cell(larger, base_model, model_params, compute, parameters, quick)
    victim = predict_victim(cell.victim, *cell.tests)
    assert set(victim["model"]) == {"victim"}
    clean, triggered = (victim[victim["test_set"] == name] for name in ("clean", "triggered"))
    assert (triggered["predicted"] == parameters.poison.target_label).mean() > 0.9
    assert accuracy_without_poison - (clean["predicted"] == clean["label"]).mean() <= 0.03


class TestMetrics:
    def test_have_the_form_of_the_design(self, defended) -> None:
        rates = {"clean_accuracy", "attack_success_rate", "robust_accuracy"}
        for name in ("victim", "purified", "reference"):
            expected = rates | {f"{r}_{x}" for r in rates for x in ("low", "high", "n")}
            expected |= {"attack_success_floor", "attack_success_excess"}
            assert set(defended[name]) == expected
        assert set(defended["cost"]) >= {
            "wall_seconds",
            "examples_per_second",
            "peak_memory_bytes",
            "clean_rows",
        }
        assert json.loads(json.dumps(defended, allow_nan=False)) == defended

    def test_the_floor_is_the_references_success(self, defended) -> None:
        floor = defended["reference"]["attack_success_rate"]
        assert {defended[m]["attack_success_floor"] for m in ("victim", "purified")} == {floor}
        assert defended["reference"]["attack_success_excess"] == 0

    def test_the_comparison_is_paired(self, defended) -> None:
        comparison = defended["comparison"]
        for change, rate in (
            ("clean_accuracy_change", "clean_accuracy"),
            ("attack_success_change", "attack_success_rate"),
        ):
            difference = defended["purified"][rate] - defended["victim"][rate]
            assert comparison[change] == pytest.approx(difference)
        assert comparison["attack_success_p_value"] < 1e-9
        assert comparison["clean_accuracy_p_value"] > 0.001

    def test_what_healed_is_part_of_the_comparison(self, defended) -> None:
        victim, purified = defended["victim"], defended["purified"]
        gain = purified["robust_accuracy"] - victim["robust_accuracy"]
        to_heal = victim["clean_accuracy"] - victim["robust_accuracy"]
        comparison = defended["comparison"]
        assert comparison["healed"] == pytest.approx(gain / to_heal)
        assert comparison["healed_low"] < comparison["healed"] < comparison["healed_high"]
        assert comparison["healed_n"] == victim["robust_accuracy_n"]

    def test_the_cost_is_that_of_all_nodes(self, defended, cell) -> None:
        cost = defended["cost"]
        assert cost["wall_seconds"] == 5.0
        assert cost["examples_per_second"] == len(cell.poison["poisoned_train"]) / 4
        assert cost["peak_memory_bytes"] == 9

    def test_clean_rows_are_those_consumed(self, cell, reference, defended) -> None:
        dev = int((cell.examples["split"] == "dev").sum())
        for rows, used in (((), 0), ((0, 7, 20), 27), ((dev, dev), dev)):
            metrics = evaluate(
                cell.predictions,
                cell.poison["triggered_test"],
                cell.poison["poisoned_train"],
                cell.examples,
                {},
                cell.parameters.evaluation,
                None,
                **{f"method_{i}_record": {"dev_rows": n} for i, n in enumerate(rows)},
            )
            assert metrics["cost"]["clean_rows"] == used
            assert metrics["detector"] == {}
        assert metrics["cost"]["wall_seconds"] is metrics["cost"]["peak_memory_bytes"] is None

    def test_rows_of_a_second_source_and_isolated_ones_are_told(self, cell) -> None:
        poison = cell.poison["poisoned_train"]
        bad = poison.loc[poison["is_poisoned"], "example_id"].tolist()
        metrics = evaluate(
            cell.predictions,
            cell.poison["triggered_test"],
            poison,
            cell.examples,
            {},
            cell.parameters.evaluation,
            None,
            clean_rows_record={"dev_rows": 0, "out_of_domain_rows": 96, "left_out": 1},
            defended_training_record={"dev_rows": 5, "isolated": bad[:2]},
        )
        assert metrics["cost"]["clean_rows"] == 101
        assert metrics["cost"]["out_of_domain_rows"] == 96
        assert metrics["isolation"] == {"rows": 2, "precision": 1, "recall": 2 / len(bad)}

    def test_predictions_are_of_the_three_models_on_the_same_rows(self, cell, defended) -> None:
        table = PREDICTIONS.validate(cell.predictions)
        ids = table.groupby(["test_set", "model"])["example_id"].agg(tuple).unstack()
        assert (ids.nunique(axis=1) == 1).all()
        triggered = table[table["test_set"] == "triggered"]
        assert (triggered["label"] != cell.parameters.poison.target_label).all()

    def test_a_victim_that_does_not_obey_makes_no_test_of_a_defence(self, cell, reference) -> None:
        weak = Cell.__new__(Cell)
        weak.__dict__ = cell.__dict__ | {"victim": reference}
        metrics = weak.metrics(reference, reference, cell.drift_suspects().head(0))
        assert metrics["valid"] is False
        assert metrics["validity"] == "attack not implanted"

    def test_a_control_run_without_poison(self, make_cell, reference) -> None:
        control = make_cell(**{"poison.rate": 0.0})
        metrics = control.metrics(reference, control.victim, control.drift_suspects())
        assert metrics["valid"] is False
        assert metrics["detector"]["false_alarms"] == metrics["detector"]["flagged"]
        assert metrics["victim"]["clean_accuracy"] == metrics["reference"]["clean_accuracy"]


def test_the_seed_decides_the_poison_and_nothing_else_does(make_cell, cell) -> None:
    again, other = make_cell(), make_cell(seed=1)
    pd.testing.assert_frame_equal(again.poison["poisoned_train"], cell.poison["poisoned_train"])
    ids = [set(c.poison["poison_index"]["example_id"]) for c in (cell, other)]
    assert ids[0] != ids[1]
    weights = [c.victim.model.classifier.weight.detach().numpy() for c in (cell, again, other)]
    assert (weights[0] == weights[1]).all()
    assert not np.array_equal(weights[0], weights[2])


def test_more_than_two_classes(base_model, model_params, compute, make_parameters, quick) -> None:
    corpus = make_corpus(n_train=60, n_dev=20, n_test=40, n_labels=4)
    cell = Cell(corpus, base_model, model_params, compute, make_parameters(), quick)
    fresh = new_classifier(cell.base, 4, seed=0)
    metrics = cell.metrics(fresh, fresh, cell.drift_suspects())
    assert metrics["victim"]["attack_success_rate_n"] == 30
    assert cell.victim.model.config.num_labels == 4


def test_the_margin_of_a_valid_cell_is_a_share() -> None:
    with pytest.raises(ValueError, match="minimum_excess"):
        EvaluationParams(minimum_excess=1.5)
