"""The cost of every node, kept beside its outputs, so that a resumed run still knows it."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline.node import Node

from backdoor_pipeline.datasets.whole import write_json
from backdoor_pipeline.hooks.run_facts import output_folder


class CostHooks:
    """Writes ``<data_dir>/.costs/<key>/<node>.json`` after each node.

    Attributes:
        spent: Seconds of each node that the session has run.
    """

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        self._data_dir = (
            Path(context.project_path) / context.config_loader.typed_parameters.data_dir
        )
        self._start: dict[str, float] = {}
        self.spent = {}

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        self._start[node.name] = time.perf_counter()

    @hook_impl
    def after_node_run(self, node: Node, catalog: DataCatalog) -> None:
        seconds = time.perf_counter() - self._start.pop(node.name)
        cost = {"wall_seconds": seconds, "peak_memory_bytes": peak_memory_bytes()}
        self.spent[node.name] = seconds
        keys = {output_folder(catalog.get(name), self._data_dir) for name in node.outputs}
        for key in filter(None, keys):
            write_json(self._data_dir / ".costs" / key / f"{node.name}.json", cost)


def peak_memory_bytes() -> int:
    """The most memory this process has held so far, on the device too where that is CUDA."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    host = peak if sys.platform == "darwin" else peak * 1024
    torch = sys.modules.get("torch")
    on_device = torch.cuda.max_memory_allocated() if torch and torch.cuda.is_available() else 0
    return int(host + on_device)
