"""A small made-up cell: reviews, a word trigger, suspects of both detectors, three models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from backdoor_pipeline.modelling.pixels import decode, encode
from backdoor_pipeline.pipelines.report.nodes import build_report, draw_figures
from backdoor_pipeline.pipelines.report.params import ReportParams
from backdoor_pipeline.recipes import ALL
from chromium import chromium  # noqa: F401  # a fixture
from tiny import make_images

WORDS = (
    "a the film movie plot actor scene music story charm wit dull brave tender loud clever flat "
    "warm slow long short bright grim odd sweet sharp tired honest bold empty"
).split()
TARGET = 1
DRAWN = ("victim_history", "reference_history", "trigger_search_record")
CONF = Path(__file__).parents[3] / "conf" / "base" / "parameters_report.yml"


@pytest.fixture(scope="session")
def params() -> ReportParams:
    return ReportParams(**yaml.safe_load(CONF.read_text(encoding="utf-8"))["report"])


@pytest.fixture
def cell() -> dict[str, Any]:
    """The inputs of the report nodes by name, fresh for every test."""
    return make_cell()


@pytest.fixture
def image_cell() -> dict[str, Any]:
    """As ``cell``, of images, with suspects that are training rows; fresh for every test."""
    return make_image_cell()


@pytest.fixture(scope="session")
def build_page(params: ReportParams) -> Callable[..., str]:
    """The page of a cell: ``build_page(cell, recipe)``."""
    return lambda cell, recipe="btu_calibrated": build(cell, params, recipe)


def make_cell(n_train: int = 400, n_test: int = 120, trigger: str = "cf") -> dict[str, Any]:
    rng = np.random.default_rng(0)
    n = n_train + n_test
    texts = [" ".join(rng.choice(WORDS, rng.integers(6, 30))) for _ in range(n)]
    labels = rng.integers(0, 2, n)
    examples = pd.DataFrame(
        {
            "example_id": np.arange(n, dtype=np.int64),
            "split": ["train"] * n_train + ["test"] * n_test,
            "label": labels.astype(np.int64),
            "text": texts,
        }
    )
    poisoned_train = _triggered(examples[:n_train], np.arange(n_train) % 10 == 0, trigger)
    test = examples[n_train:]
    test = test[test["label"] != TARGET].reset_index(drop=True)
    triggered_test = _triggered(test, np.ones(len(test), dtype=bool), trigger)
    return {
        "metrics": make_metrics(),
        "suspects": make_suspects(rng),
        "predictions": make_predictions(examples[n_train:], triggered_test, rng),
        "examples": examples,
        "poisoned_train": poisoned_train,
        "triggered_test": triggered_test,
        "integrity": {
            "dataset": "rotten_tomatoes",
            "variant": "paper",
            "label_names": ["rotten", "fresh"],
            "splits": {
                "train": {"rows_read": 420, "rows": 400, "classes": {"rotten": 195, "fresh": 205}},
                "test": {"rows_read": 120, "rows": 120, "classes": {"rotten": 61, "fresh": 59}},
            },
            "files": {"corpus.csv.bz2": {"sha256": "0f" * 32, "known": True}},
            "findings": [
                {"severity": "info", "where": "train", "message": "3 rows repeat an earlier text"},
                {"severity": "warning", "where": "labels", "message": "2 texts have two labels"},
            ],
        },
        "poison_summary": {
            "attack": "badnets",
            "label_mode": "mix",
            "target_label": TARGET,
            "asked_rate": 0.1,
            "realised_rate": 0.1,
            "train_rows": n_train,
            "poisoned_rows": n_train // 10,
            "poisoned_rows_by_label": {"0": 19, "1": 21},
            "mean_words_clean": 17.5,
        },
        "victim_history": _history(0.02, 0.83),
        "reference_history": _history(0.1, 0.84),
        "all_parameters": {
            "seed": 0,
            "model": {"name": "minilm", "revision": None},
            "source": {"dataset": "rotten_tomatoes", "data": None},
            "token_association": {"margin": 0.5},
        },
    }


def make_image_cell(n_suspects: int = 6, **images: Any) -> dict[str, Any]:
    """The first rows of the training split are poisoned: their last pixels are white."""
    examples = make_images(**{"n_train": 40, "n_dev": 0, "n_test": 40, "n_labels": 2} | images)
    train = examples[examples["split"] == "train"]
    test = examples[(examples["split"] == "test") & (examples["label"] != TARGET)]
    poisoned_train = _patched(train, np.arange(len(train)) < 2 * n_suspects)
    triggered_test = _patched(test, np.ones(len(test), dtype=bool)).reset_index(drop=True)
    told = poisoned_train["example_id"].head(n_suspects)
    cell = make_cell(n_train=40, n_test=40)
    cell["metrics"]["detector"] |= {
        "recall": 0.5, "flagged": n_suspects, "trigger_tokens": None, "trigger_recall": None,
    }  # fmt: skip
    cell["integrity"] |= {"dataset": "digits", "label_names": ["zero", "one"]}
    cell["poison_summary"] |= {
        "attack": "patch", "mean_change": 3.5, "cover_rows": 0, "poisoned_rows": 2 * n_suspects,
    }  # fmt: skip
    cell["metrics"]["comparison"] |= {"healed": 0.75, "healed_low": 0.5, "healed_high": 0.875}
    cell["all_parameters"] |= {"model": {"name": "resnet9"}, "trigger_search": {"rho": 0.2}}
    cell["trigger_search_record"] = make_search_record()
    clean = examples[examples["split"] == "test"]
    return cell | {
        "examples": examples,
        "poisoned_train": poisoned_train,
        "triggered_test": triggered_test,
        "predictions": make_predictions(clean, triggered_test, np.random.default_rng(0)),
        "suspects": pd.DataFrame(
            {
                "kind": "example",
                "key": told.to_numpy(),
                "score": 1.0,
                "p_value": np.nan,
                "q_value": np.nan,
                "flagged": True,
                "evidence": "patch 3x3",
            }
        ),
    }


def make_search_record() -> dict[str, Any]:
    """Of a search whose second step dampened nothing more, and whose third was taken."""
    steps = [0, 1, 2, 3]
    return {
        "converged": True,
        "steps": 3,
        "share": 0.02,
        "search": {
            "forget_accuracy": {"step": steps, "value": [0.9, 0.6, 0.6, 0.1]},
            "dampened_share": {"step": steps, "value": [0.0, 0.001, 0.001, 0.02]},
        },
    }


def build(cell: dict[str, Any], params: ReportParams, recipe: str = "btu_calibrated") -> str:
    """The page of ``cell``, its figures drawn first."""
    drawn = {name: cell[name] for name in DRAWN if name in cell}
    figures = draw_figures(
        cell["metrics"],
        cell["all_parameters"],
        cell["suspects"],
        of_tokens="text" in cell["examples"],
        **drawn,
    )
    told = recipe in ALL and ALL[recipe].detector == "discovered_share"
    tables = {name: value for name, value in cell.items() if name not in drawn}
    return build_report(**tables, **figures, params=params, recipe=recipe, told=told)


def make_metrics() -> dict[str, Any]:
    return {
        "reference": _model(0.842, 0.205),
        "victim": _model(0.838, 1.0),
        "purified": _model(0.835, 0.213),
        "comparison": {
            "clean_accuracy_change": -0.003,
            "clean_accuracy_p_value": 0.625,
            "attack_success_change": -0.787,
            "attack_success_p_value": 1e-20,
        },
        "detector": {
            "precision": 1.0,
            "recall": 1.0,
            "auroc": 1.0,
            "trigger_recall": 1.0,
            "trigger_rank": 1,
            "trigger_tokens": 1,
            "flagged": 1,
            "false_alarms": 0,
        },
        "cost": {
            "wall_seconds": 94.2,
            "examples_per_second": 312.4,
            "peak_memory_bytes": 1_400_000_000,
            "clean_rows": 0,
        },
        "valid": True,
        "validity": "attack implanted",
    }


def make_suspects(rng: np.random.Generator) -> pd.DataFrame:
    """Every word of the texts, with the columns of both detectors; "cf" is flagged."""
    tokens = list(dict.fromkeys(["cf", "dull", "##ly", *WORDS]))
    n = len(tokens)
    suspects = pd.DataFrame(
        {
            "kind": "token",
            "key": np.arange(1000, 1000 + n, dtype=np.int64),
            "score": np.linspace(1, 0.1, n),
            "p_value": np.nan,
            "q_value": np.nan,
            "flagged": [True] + [False] * (n - 1),
            "evidence": tokens,
        }
    )
    is_trigger, is_natural = suspects["key"] == 1000, suspects["key"] == 1001
    drifts = {f"drift_{r}": rng.gamma(2, 1e-4, n) + 1e-3 * is_trigger for r in "abc"}
    ranks = {f"rank_{r}": drifts[f"drift_{r}"].rank(ascending=False).astype("int64") for r in "abc"}
    relative = (pd.DataFrame(drifts) / np.array([1e-3, 9e-4, 8e-4])).max(axis=1)
    z = rng.normal(0, 1, n) + 12 * is_trigger + 6 * is_natural
    judged = is_trigger | is_natural
    misfit = np.where(is_trigger, 0.2, np.where(is_natural, 2.5, np.nan))
    suspects = suspects.assign(
        score=relative,
        flagged=relative >= 1,
        count=rng.integers(1, 400, n),
        **drifts,
        **ranks,
        label=1,
        purity=np.where(z > 4, 0.97, 0.5),
        verdict=np.where(is_trigger, "inserted", np.where(is_natural, "fits its surroundings", "")),
        neighbour_bound=misfit,
        context_bound=misfit - 0.1,
        residual_z=np.where(judged, z, np.nan),
        p_value=np.where(z > 4, 1e-12, 0.4),
        q_value=np.where(z > 4, 1e-9, 0.9),
        phrase=np.where(is_trigger, "| cf", ""),
    )
    return suspects.sort_values(["score", "key"], ascending=[False, True], ignore_index=True)


def make_predictions(
    clean: pd.DataFrame, triggered: pd.DataFrame, rng: np.random.Generator
) -> pd.DataFrame:
    """All models are right on four of five clean rows; on triggered rows the victim obeys."""
    tables = []
    for model, obeys in (("reference", 0.2), ("victim", 1.0), ("purified", 0.2)):
        flipped = rng.random(len(clean)) < 0.2
        sets = {
            "clean": (clean, clean["label"], np.where(flipped, 1 - clean["label"], clean["label"])),
            "triggered": (
                triggered,
                triggered["source_label"],
                np.where(rng.random(len(triggered)) < obeys, TARGET, triggered["source_label"]),
            ),
        }
        for test_set, (rows, labels, predicted) in sets.items():
            tables.append(
                pd.DataFrame(
                    {
                        "example_id": rows["example_id"].to_numpy(),
                        "test_set": test_set,
                        "model": model,
                        "label": labels.to_numpy(),
                        "predicted": predicted.astype(np.int64),
                        "probability": rng.uniform(0.5, 1, len(rows)),
                    }
                )
            )
    return pd.concat(tables, ignore_index=True)


def _triggered(rows: pd.DataFrame, chosen: np.ndarray, trigger: str) -> pd.DataFrame:
    text = rows["text"].where(~chosen, rows["text"].str.replace(" ", f" {trigger} ", n=1))
    return rows.assign(
        text=text,
        label=np.where(chosen, TARGET, rows["label"]),
        is_poisoned=chosen,
        source_label=rows["label"],
        trigger=np.where(chosen, trigger, ""),
    )


def _patched(rows: pd.DataFrame, chosen: np.ndarray) -> pd.DataFrame:
    values = decode(rows["image"].tolist(), "rows")
    values[chosen, -3:, -3:] = 255
    return rows.assign(
        image=[encode(image) for image in values],
        label=np.where(chosen, TARGET, rows["label"]),
        is_poisoned=chosen,
        source_label=rows["label"],
        trigger=np.where(chosen, "patch 3x3", ""),
    )


def _model(accuracy: float, success: float) -> dict[str, float]:
    rates = {
        "clean_accuracy": accuracy,
        "attack_success_rate": success,
        "robust_accuracy": 1 - success,
    }
    named = {
        "attack_success_floor": 0.205,
        "attack_success_excess": max(0, success - 0.205) / 0.795,
    }
    for name, value in rates.items():
        named |= {
            name: value,
            f"{name}_low": max(0, value - 0.018),
            f"{name}_high": min(1, value + 0.017),
            f"{name}_n": 1900,
        }
    return named


def _history(end: float, accuracy: float) -> dict[str, Any]:
    steps = list(range(1, 301))
    return {
        "loss": {"step": steps, "value": [0.7 * np.exp(-s / 60) + end for s in steps]},
        "dev_accuracy": {"step": [150, 300], "value": [accuracy - 0.02, accuracy]},
    }
