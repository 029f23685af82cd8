"""The whole of UBT, node by node, on images that are told apart at a glance."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from backdoor_pipeline.modelling.pixels import encode
from backdoor_pipeline.pipelines.detect.nodes import (
    detect_overfit_similarity,
    draw_trusted_pairs,
    overfit_victim,
    rank_pairs,
    score_by_trusted,
    train_trusted_encoder,
)
from backdoor_pipeline.pipelines.evaluate.nodes import model_metrics, name_classes, predict_victim
from backdoor_pipeline.pipelines.poison.nodes import poison_pairs
from backdoor_pipeline.pipelines.train.nodes import train_pair_victim
from backdoor_pipeline.pipelines.unlearn.nodes import forget_locally

pytestmark = pytest.mark.slow

NAMES = (
    "apple bottle castle dolphin engine forest guitar hammer island jacket "
    "kitchen ladder mirror needle orange piano rocket saddle table window"
).split()
TEMPLATES = ("a photo of a {}", "look at the {}", "this is a {}")
ROWS = {"train": 3000, "dev": 300, "test": 400}


def toy() -> pd.DataFrame:
    """Squares of colours, those of the class, under noise."""
    rng = np.random.default_rng(0)
    n_rows = sum(ROWS.values())
    labels = rng.permutation(np.arange(n_rows) % len(NAMES))
    squares = 150 * rng.integers(0, 2, (len(NAMES), 4, 4, 3))
    images = squares.repeat(3, axis=1).repeat(3, axis=2)[labels]
    images = (images + rng.integers(0, 100, images.shape)).astype(np.uint8)
    return pd.DataFrame(
        {
            "example_id": range(n_rows),
            "split": [split for split, n in ROWS.items() for _ in range(n)],
            "label": labels,
            "image": pd.Series([encode(image) for image in images], dtype=object),
            "caption": [
                TEMPLATES[row % 3].format(NAMES[label]) for row, label in enumerate(labels)
            ],
        }
    )


@pytest.fixture
def defended(make_parameters):
    """Trains a victim and purifies it: ``suspects``, rates ``before`` and ``after``, ``train``."""

    def defended(poison_rate: float) -> tuple[pd.DataFrame, dict, dict, pd.DataFrame]:
        patch = {"poison.patch.size": 4, "poison.patch.margin": 1}
        p = make_parameters(
            **{"modality": "pair", "poison.attack": "patch", "poison.rate": poison_rate} | patch,
            **{"poison.label_mode": "dirty", "model.name": "minilm", "model.width": 0.125},
            **{"trusted_encoder.rows": 300, "trusted_encoder.optimisation.epochs": 20},
            **{"training.epochs": 10, "overfit_similarity.suspect_share": 0.02},
        )
        examples, integrity, reading = toy(), {"label_names": NAMES}, (p.model, p.compute)
        settings, params = (*reading, p.seed), p.overfit_similarity
        made = poison_pairs(examples, None, integrity, p.poison, p.ingest, p.seed)
        train, triggered = made["poisoned_train"], made["triggered_test"]
        victim, _ = train_pair_victim(train, p.training, *settings)
        pairs = draw_trusted_pairs(examples, p.trusted_encoder, p.model, p.seed)
        trusted = train_trusted_encoder(pairs, examples, p.trusted_encoder, *settings)
        similar = score_by_trusted(train, trusted, *reading)
        over = overfit_victim(train, victim, similar, params, p.training, *settings)
        ranks = rank_pairs(train, over, similar, params, *settings)
        found = (victim, trusted, ranks, pairs, params)
        suspects, _ = detect_overfit_similarity(train, *found, *reading)
        purified, _ = forget_locally(victim, train, suspects, p.local_forgetting, *settings)
        prompts = name_classes(integrity, made["poison_summary"], p.ingest)
        before, after = (
            model_metrics(
                predict_victim(model, examples, triggered, *reading, prompts), p.poison.target_label
            )
            for model in (victim, purified)
        )
        return suspects, before, after, train

    return defended


def test_ubt_11_10_a_patch_on_one_per_cent_is_found_and_forgotten(defended) -> None:
    suspects, before, after, train = defended(0.01)
    assert before["attack_success_rate"] > 0.9
    chosen = set(suspects.loc[suspects["flagged"], "key"])
    poisoned = set(train.loc[train["is_poisoned"], "example_id"])
    assert len(poisoned) == 30
    assert len(chosen & poisoned) >= 0.8 * len(poisoned)
    assert after["attack_success_rate"] < 0.2
    assert after["clean_accuracy"] > before["clean_accuracy"] - 0.05


def test_ubt_11_11_without_poison_nothing_is_found(defended) -> None:
    suspects, before, after, _ = defended(0.0)
    assert abs(after["clean_accuracy"] - before["clean_accuracy"]) < 0.01
    assert after["clean_accuracy"] == before["clean_accuracy"]
    assert not suspects["flagged"].any()
