"""Kedro's project settings: the classes and hooks that every run uses."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("DO_NOT_TRACK", "1")  # telemetry of Kedro and MLflow
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from omegaconf.resolvers import oc

from backdoor_pipeline.configuration import MODALITY_FILES, ProjectConfigLoader
from backdoor_pipeline.hooks import HOOKS  # noqa: F401 (a Kedro setting)
from backdoor_pipeline.session import ProjectSession

PROJECT_ROOT = Path(__file__).resolve().parents[2]

SESSION_CLASS = ProjectSession
CONFIG_LOADER_CLASS = ProjectConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "merge_strategy": dict.fromkeys(("parameters", *MODALITY_FILES), "soft"),
    "config_patterns": {
        "parameters": ["parameters*", "parameters*/**"],  # folders in conf/paper are environments
        "mlflow": ["mlflow*", "mlflow*/**"],
        **{name: [f"{name}*", f"{name}*/**"] for name in MODALITY_FILES},
    },
    "custom_resolvers": {
        "oc.env": oc.env,  # Kedro allows it in credentials only unless registered here
        "root": lambda path="": str(PROJECT_ROOT / path),
    },
}
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-viz", "kedro-telemetry")
