"""What the tests of models share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from train_in_processes import in_two_processes


@pytest.fixture(scope="session")
def torchrun_results(
    model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """What each of two processes under ``torchrun`` ends with, on texts and on images."""
    return in_two_processes(model_folder("distilbert"), tmp_path_factory.mktemp("torchrun"))


@pytest.fixture
def copied(model_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a tiny model's folder that a test may spoil."""

    def copy(architecture: str = "bert") -> Path:
        return Path(shutil.copytree(model_folder(architecture), tmp_path / "model"))

    return copy
