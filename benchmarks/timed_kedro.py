"""The `kedro` command; at its end it prints how long the catalog has read and written.

python benchmarks/timed_kedro.py run --pipelines btu
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kedro.framework.cli.cli import main
from kedro.io import DataCatalog

CATALOG_SECONDS = "catalog seconds"


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """``function``, which notes how long each of its calls took."""

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - start)

    return call


if __name__ == "__main__":
    spent: list[float] = []
    DataCatalog.load = timed(DataCatalog.load, spent)  # type: ignore[method-assign]
    DataCatalog.save = timed(DataCatalog.save, spent)  # type: ignore[method-assign]
    try:
        main()
    finally:
        print(f"{CATALOG_SECONDS}: {sum(spent):.3f}")
