"""Two runs with equal settings at the same time: the second one stops before it does anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from kedro.framework.hooks import hook_impl
from kedro.pipeline import Pipeline

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.hooks.run_facts import output_folders


class LockHooks:
    """Locks the outputs of a run; the operating system frees the locks of a killed process."""

    def __init__(self) -> None:
        self._locks: list[FileLock] = []

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        self._context = context

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline) -> None:
        self._release()  # of a run that another hook stopped before it began
        loader = self._context.config_loader
        data_dir = Path(self._context.project_path) / loader.typed_parameters.data_dir
        for folder in output_folders(pipeline, loader.keys_of_stages):
            self._acquire(data_dir / ".locks" / f"{folder}.lock")

    @hook_impl
    def after_pipeline_run(self) -> None:
        self._release()

    @hook_impl
    def on_pipeline_error(self) -> None:
        self._release()

    def _acquire(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            lock.acquire(timeout=0)
        except Timeout:
            self._release()
            raise InputError(
                f"another run with the same settings is under way (it holds {path}); wait for it, "
                "or change a parameter such as seed"
            ) from None
        except OSError as error:
            self._release()
            raise InputError(
                f"cannot write to {path.parent} ({error.strerror}); let data_dir "
                "(`--params data_dir=…`) name a folder that you may write to"
            ) from None
        self._locks.append(lock)

    def _release(self) -> None:
        while self._locks:
            self._locks.pop().release()
