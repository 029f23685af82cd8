from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data() -> Path:
    """The folder of published data sets."""
    folder = Path(os.environ.get("BACKDOOR_DATA", "../shared/data"))
    if not (folder / "openbackdoor").is_dir():
        pytest.skip(f"no published data sets at {folder}: set BACKDOOR_DATA to their folder")
    return folder
