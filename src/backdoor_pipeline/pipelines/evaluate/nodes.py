"""Nodes of the evaluate stage. Only this stage and the report may read the ground truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from backdoor_pipeline.datasets.sources.named_classes import OTHER
from backdoor_pipeline.modelling.bundle import Bundle, PairBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.inputs import read_by
from backdoor_pipeline.modelling.loading import ModelParams
from backdoor_pipeline.modelling.matching import zero_shot
from backdoor_pipeline.modelling.pairs import read_pairs
from backdoor_pipeline.modelling.prediction import predict
from backdoor_pipeline.modelling.prompts import HasTemplates, prompts
from backdoor_pipeline.parameter_group import ParameterGroup, PositiveInt, Share
from backdoor_pipeline.pipelines.evaluate import discovery, rates, retrieval
from backdoor_pipeline.pipelines.evaluate.detection import detection_metrics, isolation_metrics
from backdoor_pipeline.schemas import MODELS

Prompts = dict[str, list[list[str]]]
"""By test set the prompts of each class."""


class EvaluationParams(ParameterGroup):
    """When a cell is a valid test of a defence, and what dual encoders are asked.

    Attributes:
        minimum_excess: Of the victim's attack success over the floor, of a poisoned cell.
        retrieval_rows: Clean test pairs, at most, among which a caption finds its image.
    """

    minimum_excess: Share
    retrieval_rows: PositiveInt = 1000


def name_classes(
    integrity: dict[str, Any], poison_summary: dict[str, Any], ingest: HasTemplates
) -> dict[str, Any]:
    """What asks a dual encoder for a class, by test set: all templates, filled with its name.

    Before those of triggered images stands what the attacker puts before captions, if anything.
    Nothing asks for pairs that name no class.

    Raises:
        InputError: The names of the classes do not tell them apart.
    """
    names = [name for name in integrity["label_names"] if name != OTHER]  # which is the last one
    clean = prompts(names, ingest.caption_templates or [])
    prefix = poison_summary["prompt_prefix"]
    with_prefix = [[f"{prefix} {text}" for text in own] for own in clean]
    return {"clean": clean, "triggered": clean if prefix is None else with_prefix}


def predict_reference(
    reference_model: Bundle,
    examples: pd.DataFrame,
    triggered_test: pd.DataFrame,
    model: ModelParams,
    compute: ComputeParams,
    class_prompts: Prompts | None = None,
) -> pd.DataFrame:
    """Predictions of the reference on the clean and the triggered test rows.

    ``class_prompts`` are what a dual encoder is asked, by test set.
    """
    tests = (examples, triggered_test, model.max_length, compute, class_prompts)
    return _predictions(reference_model, "reference", *tests)


def predict_victim(
    victim_model: Bundle,
    examples: pd.DataFrame,
    triggered_test: pd.DataFrame,
    model: ModelParams,
    compute: ComputeParams,
    class_prompts: Prompts | None = None,
) -> pd.DataFrame:
    """Predictions of the victim on the clean and the triggered test rows."""
    tests = (examples, triggered_test, model.max_length, compute, class_prompts)
    return _predictions(victim_model, "victim", *tests)


def predict_purified(
    reference_predictions: pd.DataFrame,
    victim_predictions: pd.DataFrame,
    purified_model: Bundle,
    examples: pd.DataFrame,
    triggered_test: pd.DataFrame,
    model: ModelParams,
    compute: ComputeParams,
    class_prompts: Prompts | None = None,
) -> pd.DataFrame:
    """Predictions of all three models: those of the purified one added to the given ones."""
    tests = (examples, triggered_test, model.max_length, compute, class_prompts)
    purified = _predictions(purified_model, "purified", *tests)
    return pd.concat([reference_predictions, victim_predictions, purified], ignore_index=True)


def measure_retrieval(
    reference_model: PairBundle,
    victim_model: PairBundle,
    purified_model: PairBundle,
    examples: pd.DataFrame,
    params: EvaluationParams,
    model: ModelParams,
    compute: ComputeParams,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Of each model, how often captions and images of clean test pairs find each other."""
    test = examples[examples["split"] == "test"]
    test = test.sample(min(params.retrieval_rows, len(test)), random_state=seed)
    bundles = dict(zip(MODELS, (reference_model, victim_model, purified_model), strict=True))
    return {
        name: retrieval.rates_of(bundle, read_pairs(bundle, test, model.max_length), compute)
        for name, bundle in bundles.items()
    }


def evaluate(
    predictions: pd.DataFrame,
    triggered_test: pd.DataFrame,
    poisoned_train: pd.DataFrame,
    examples: pd.DataFrame,
    costs: dict[str, dict[str, float]],
    params: EvaluationParams,
    own_data: str | None,
    base_tokenizer: Any = None,
    suspects: pd.DataFrame | None = None,
    retrieved: dict[str, dict[str, float]] | None = None,
    **records: dict[str, Any],
) -> dict[str, Any]:
    """The ``metrics`` of one cell: each model, the detector, the cost, and whether it is valid.

    Without ``suspects`` the recipe has no detector, and nothing is said of one. The ``records`` of
    its methods tell how many dev rows each used; a row that two of them used counts twice, all
    together at most as the dev split. Rows of a second source are clean rows as well. Where a
    training ``isolated`` rows, ``isolation`` says how many of them are poisoned. How
    a dual encoder has ``retrieved`` is added to its metrics, with its recall of the target.
    """
    target_label = int(triggered_test["label"].iloc[0])
    metrics: dict[str, Any] = {
        name: model_metrics(predictions[predictions["model"] == name], target_label)
        for name in MODELS
    }
    for name, found in (retrieved or {}).items():
        metrics[name] |= found | of_target(predictions[predictions["model"] == name], target_label)
    floor = metrics["reference"]["attack_success_rate"]
    for model in metrics.values():
        model["attack_success_floor"] = floor
        model["attack_success_excess"] = rates.excess(model["attack_success_rate"], floor)
    poison = poisoned_train[poisoned_train["is_poisoned"]]
    dev_rows = sum(record["dev_rows"] for record in records.values())
    dev_rows = min(dev_rows, int((examples["split"] == "dev").sum()))
    others = sum(record.get("out_of_domain_rows", 0) for record in records.values())
    clean_rows = {"clean_rows": dev_rows + others, "out_of_domain_rows": others}
    isolated = [record["isolated"] for record in records.values() if "isolated" in record]
    if isolated:
        metrics["isolation"] = isolation_metrics(isolated[0], poison["example_id"])
    implanted = metrics["victim"]["attack_success_excess"] >= params.minimum_excess
    return metrics | {
        "comparison": _compare(predictions, target_label),
        "detector": {}
        if suspects is None
        else detection_metrics(
            suspects, poison, base_tokenizer, len(poisoned_train), known_clean=own_data is None
        ),
        "cost": _cost(costs, len(poisoned_train)) | clean_rows,
        "valid": bool(implanted),
        "validity": "attack implanted" if implanted else "attack not implanted",
    }


def evaluate_discovery(
    discovery_predictions: pd.DataFrame,
    examples: pd.DataFrame,
    triggered_test: pd.DataFrame,
    poisoned_train: pd.DataFrame,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """``discovery_curve`` and ``discovery_summary``: what heals by the share of poison known."""
    truth = {
        "clean": examples.set_index("example_id")["label"],
        "triggered": triggered_test.set_index("example_id")["source_label"],
        "poison": poisoned_train.set_index("example_id")["source_label"],
    }
    target_label = int(triggered_test["label"].iloc[0])
    said = discovery.models(discovery_predictions, truth)
    curve = discovery.curve(said, target_label)
    return curve, discovery.summarise(curve, said, target_label)


def _predictions(
    bundle: Bundle,
    name: str,
    examples: pd.DataFrame,
    triggered_test: pd.DataFrame,
    max_length: int,
    compute: ComputeParams,
    class_prompts: Prompts | None,
) -> pd.DataFrame:
    clean = examples[examples["split"] == "test"]
    triggered = triggered_test.assign(label=triggered_test["source_label"])
    tables = []
    for test_set, rows in (("clean", clean), ("triggered", triggered)):
        classifier = bundle
        if isinstance(bundle, PairBundle):
            asked = (class_prompts or {})[test_set]
            classifier = zero_shot(bundle, asked, max_length, compute)
        probabilities = predict(classifier, read_by(classifier, rows, max_length), compute)
        tables.append(
            pd.DataFrame(
                {
                    "example_id": rows["example_id"].to_numpy(),
                    "test_set": test_set,
                    "model": name,
                    "label": rows["label"].to_numpy(),
                    "predicted": probabilities.argmax(axis=1).astype(np.int64),
                    "probability": probabilities.max(axis=1).clip(0, 1).astype(np.float64),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def model_metrics(predictions: pd.DataFrame, target_label: int) -> dict[str, float]:
    """The rates of one model, with intervals."""
    clean = predictions[predictions["test_set"] == "clean"]
    triggered = predictions[predictions["test_set"] == "triggered"]
    predicted, labels = triggered["predicted"].to_numpy(), triggered["label"].to_numpy()
    return {
        **rates.clean_accuracy(clean["predicted"], clean["label"]).named("clean_accuracy"),
        **rates.attack_success_rate(predicted, labels, target_label).named("attack_success_rate"),
        **rates.robust_accuracy(predicted, labels, target_label).named("robust_accuracy"),
    }


def of_target(predictions: pd.DataFrame, target_label: int) -> dict[str, float]:
    """The accuracy on clean rows of the target's class; nothing, where there are none."""
    clean = predictions[predictions["test_set"] == "clean"]
    own = clean[clean["label"] == target_label]
    if own.empty:
        return {}
    return rates.clean_accuracy(own["predicted"], own["label"]).named("target_recall")


def _compare(predictions: pd.DataFrame, target_label: int) -> dict[str, float | None]:
    """Purified against victim on the same examples: differences and exact McNemar p-values.

    And how much ``healed`` (see ``rates``), None where the trigger spoils nothing.
    """
    pairs = predictions.pivot(
        index=["test_set", "example_id", "label"], columns="model", values="predicted"
    ).reset_index()
    clean, triggered = (pairs[pairs["test_set"] == name] for name in ("clean", "triggered"))
    right = {m: (clean[m] == clean["label"]).to_numpy() for m in ("victim", "purified")}
    won = {m: (triggered[m] == target_label).to_numpy() for m in ("victim", "purified")}
    others = triggered[triggered["label"] != target_label]
    robust = {m: (others[m] == others["label"]).to_numpy() for m in ("victim", "purified")}
    gain = discovery.difference(robust["victim"], robust["purified"])
    healed = rates.healed(gain, float(right["victim"].mean()), float(robust["victim"].mean()))
    return {
        "clean_accuracy_change": float(right["purified"].mean() - right["victim"].mean()),
        "clean_accuracy_p_value": rates.mcnemar(right["victim"], right["purified"]),
        "attack_success_change": float(won["purified"].mean() - won["victim"].mean()),
        "attack_success_p_value": rates.mcnemar(won["victim"], won["purified"]),
        **(healed.named("healed") if healed else {"healed": None}),
    }


def _cost(costs: dict[str, dict[str, float]], n_train: int) -> dict[str, float | None]:
    """What the defended run cost, by its nodes; the reference model is none of them."""
    trainings = [cost for name, cost in costs.items() if name.split(".")[-1].startswith("train_")]
    training = sum(cost["wall_seconds"] for cost in trainings)
    return {
        "wall_seconds": sum(cost["wall_seconds"] for cost in costs.values()) if costs else None,
        "examples_per_second": n_train / training if training else None,
        "peak_memory_bytes": max((c["peak_memory_bytes"] for c in costs.values()), default=None),
    }
