"""What all tests share: tiny random models, a synthetic corpus, the parameters of ``conf/base``."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import settings

from backdoor_pipeline.modelling.bundle import ModelBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.folders import ModelParams
from backdoor_pipeline.modelling.loading import load_pretrained
from backdoor_pipeline.modelling.training import TrainingParams
from backdoor_pipeline.parameters import Parameters
from tiny import MAX_LENGTH, make_corpus, project_loader, save_tiny_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # eight processes a server
settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny models are quickest on one core, and several processes do not fight for it."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _frozen() -> None:
    """Collections, which statsmodels starts for each p-value, do not walk all that is imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def make_parameters() -> Callable[..., Parameters]:
    """The parameters of ``conf/base`` with changes: ``make_parameters(**{"poison.rate": 0.2})``."""

    def make(**changes: Any) -> Parameters:
        nested: dict[str, Any] = {}
        for name, value in changes.items():
            *groups, field = name.split(".")
            place = nested
            for group in groups:
                place = place.setdefault(group, {})
            place[field] = value
        return project_loader(nested).typed_parameters

    return make


@pytest.fixture(scope="session")
def compute() -> ComputeParams:
    """The CPU in float32."""
    return ComputeParams(device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def quick() -> TrainingParams:
    """Settings under which a tiny BERT learns the synthetic corpus."""
    return TrainingParams(
        epochs=1,
        learning_rate=2e-3,
        batch_size=8,
        weight_decay=0.01,
        warmup_share=0.1,
        max_gradient_norm=1.0,
        dropout=None,
        num_workers=1,
    )


@pytest.fixture(scope="session")
def corpus() -> pd.DataFrame:
    """The synthetic corpus with two labels."""
    return make_corpus()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny pretrained model of an architecture (made once; do not change it)."""

    @cache
    def make(architecture: str = "bert") -> Path:
        folder = tmp_path_factory.mktemp("models") / f"tiny-{architecture}"
        return save_tiny_model(folder, architecture)

    return make


@pytest.fixture(scope="session")
def model_params(model_folder: Callable[[str], Path]) -> Callable[[str], ModelParams]:
    """The parameter group ``model`` that names a tiny model."""
    return lambda architecture="bert": ModelParams(
        name=str(model_folder(architecture)), max_length=MAX_LENGTH
    )


@pytest.fixture(scope="session")
def base_model(model_params: Callable[[str], ModelParams]) -> Callable[[str], ModelBundle]:
    """A tiny pretrained model and its tokenizer, loaded once (nodes leave it as it is)."""
    return cache(lambda architecture="bert": load_pretrained(model_params(architecture)))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sqlite file with MLflow's tables: making them takes longer than any of these tests."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file
