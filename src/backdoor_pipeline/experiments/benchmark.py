"""A grid in its project: run it, see how it stands, make its tables, remove its outputs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_pipeline.configuration import ProjectConfigLoader
from backdoor_pipeline.datasets.whole import write_json
from backdoor_pipeline.errors import InputError, did_you_mean
from backdoor_pipeline.experiments.cells import Cell, cells_of
from backdoor_pipeline.experiments.executors import Executor
from backdoor_pipeline.experiments.grid import read_grid
from backdoor_pipeline.experiments.outputs import (
    are_there,
    keys_of_other_grids,
    outputs_of,
    remove,
)
from backdoor_pipeline.experiments.process import Outcome, Site, describe, perform
from backdoor_pipeline.experiments.records import DONE, FAILED, MISSING, Records, cells_table
from backdoor_pipeline.experiments.tasks import Task, plan
from backdoor_pipeline.experiments.tracking import SEVERAL_HOSTS, GridRun
from backdoor_pipeline.hooks.lock import hold
from backdoor_pipeline.hooks.mlflow_run import check_settings, sqlite_file

logger = logging.getLogger(__name__)
GRIDS = "grids"
INHERITED = ("BACKDOOR_", "MLFLOW_", "HF_")
"""How variables of the environment begin that the tasks of a grid need on every host."""


@dataclass(frozen=True)
class Benchmark:
    """A grid and the place of its outputs.

    Attributes:
        name: Of the grid file.
        project: Root of the Kedro project.
        env: Environment of all cells; None: Kedro's default one.
        data_dir: Where outputs are written.
        cells: All of the grid.
        loader: The project's configuration in that environment.
    """

    name: str
    project: Path
    env: str | None
    data_dir: Path
    cells: list[Cell]
    loader: ProjectConfigLoader

    @classmethod
    def open(cls, project: Path, grid_file: str, settings: Mapping[str, Any]) -> Benchmark:
        """The grid in a file, checked.

        Args:
            project: Root of the Kedro project.
            grid_file: Its path, or its name in a folder ``grids`` of the configuration.
            settings: Further parameters of all cells, which come last.

        Raises:
            InputError: The file or a parameter of a cell is wrong; see ``cells.cells_of``.
        """
        from backdoor_pipeline.settings import CONFIG_LOADER_ARGS

        path = _find(project, grid_file)
        grid = read_grid(path)
        loader = ProjectConfigLoader(
            str(project / "conf"), env=grid.env, runtime_params=dict(settings), **CONFIG_LOADER_ARGS
        )
        cells = cells_of(grid, loader, settings, str(path))
        data_dir = project / loader.parameters_with(cells[0].settings).data_dir
        return cls(path.stem, project, grid.env, data_dir, cells, loader)

    @property
    def folder(self) -> Path:
        """Where the records, logs and tables of the grid are."""
        return self.data_dir / "08_reporting" / GRIDS / self.name

    @property
    def records(self) -> Records:
        """The records of its tasks."""
        return Records(self.folder)

    def table(self) -> pd.DataFrame:
        """One row a cell, see ``records.cells_table``."""
        return cells_table(self.cells, self.records)

    def is_running(self) -> bool:
        """Whether another process runs the grid."""
        try:
            with self._alone():
                return False
        except InputError:
            return True

    def clean(self, models_only: bool, agreed: Callable[[list[Path]], bool]) -> list[Path]:
        """Remove what the grid has made and no other grid uses.

        Args:
            models_only: Whether to remove trained models alone.
            agreed: Asked with the folders before anything is removed.

        Returns:
            The folders that stay because a run is writing there.

        Raises:
            InputError: The grid is being run.
        """
        with self._alone():
            records = filter(None, (self.records.read(task.name) for task in plan(self.cells)))
            keys = {record["keys"][stage] for record in records for stage in record["stages"]}
            spared = keys_of_other_grids(self.folder.parent, self.name)
            folders = outputs_of(keys, self.data_dir, spared, models_only)
            if not models_only and self.folder.is_dir():
                folders.append(self.folder)
            return remove(folders, self._locks) if agreed(folders) else []

    @property
    def num_workers(self) -> int:
        """The most processes that one of its cells trains a model with."""
        parameters = (self.loader.parameters_with(cell.settings) for cell in self.cells)
        return max(p.training.num_workers for p in parameters)

    def to_run(self, retry_failed: bool = False) -> list[Cell]:
        """The cells that have not ended; with ``retry_failed``, those that failed as well."""
        wanted = {MISSING, FAILED} if retry_failed else {MISSING}
        return [cell for cell in self.cells if self.records.status(cell.id) in wanted]

    def tasks(self, wanted: Set[str]) -> list[Task]:
        """What has to run for the cells of these ids, but for shared work that is done."""
        return [
            task
            for task in plan(self.cells)
            if (task.name in wanted if task.finishes else self._is_needed(task, wanted))
        ]

    def _is_needed(self, task: Task, wanted: Set[str]) -> bool:
        """Whether a cell to be run needs what ``task`` makes, and it is not there."""
        own = {stage: task.cell.keys[stage] for stage in task.stages}
        needed = any(set(own.values()) & set(c.keys.values()) for c in self.cells if c.id in wanted)
        done = self.records.status(task.name) == DONE and are_there(own, self.data_dir)
        return needed and not done

    def run(
        self, executor: Executor, threads: int, retry_failed: bool = False
    ) -> Iterator[tuple[Task, Outcome]]:
        """Run what has not ended; each task with its outcome, as they end.

        Cells that are done, but not in MLflow because the store was away, are recorded there; that
        computes nothing, and is left out where their models have been removed.

        Raises:
            InputError: The grid runs already, or its hosts cannot all write to the tracking store.
        """
        with self._alone(), executor:
            cells = {cell.id for cell in self.to_run(retry_failed)}
            environment = {k: v for k, v in os.environ.items() if k.startswith(INHERITED)}
            run = self._tracked(executor)
            try:
                if run is not None:
                    cells = run.prepare([*self._unrecorded(cells)], again=cells)
                site = Site(self.project, self.env, self.records, threads, run, environment)
                yield from self._run(executor, site, self.tasks(cells))
                files = self.write_tables(self.folder)
            except BaseException as error:
                if run is not None:
                    run.settle(dict.fromkeys(cells, f"interrupted: {type(error).__name__}"))
                    run.close("KILLED", [], {})
                raise
            if run is not None:
                counts = self.table()["status"].value_counts()
                run.close("FINISHED", files, {f"cells_{k}": float(n) for k, n in counts.items()})
                self._say_what_is_not_recorded(run)

    def _unrecorded(self, cells: Set[str]) -> Iterator[Cell]:
        """Cells that MLflow should have: those to be run, and those done whose outputs exist."""
        for cell in self.cells:
            done = self.records.status(cell.id) == DONE
            if cell.id in cells or (done and are_there(cell.keys, self.data_dir)):
                yield cell

    def _run(
        self, executor: Executor, site: Site, tasks: Sequence[Task]
    ) -> Iterator[tuple[Task, Outcome]]:
        by_name = {task.name: task for task in tasks}
        for outcome in executor.run(tasks, partial(perform, site)):
            task = by_name[outcome.task]
            if outcome.status == FAILED:
                if not outcome.recorded and self.records.status(task.name) != DONE:
                    failure = {"error": outcome.error, "seconds": outcome.seconds}
                    record = describe(task) | {"status": FAILED, "nodes": {}} | failure
                    self.records.write(task.name, record)
                if site.tracking is not None and task.finishes:
                    site.tracking.settle({task.name: outcome.error or ""})
            yield task, outcome

    def _say_what_is_not_recorded(self, run: GridRun) -> None:
        done = {cell.id for cell in self.cells if self.records.status(cell.id) == DONE}
        if lacking := done - run.finished():
            logger.warning(
                "%d of %d cells that are done are not in MLflow; if its store was away, run the "
                "grid again",
                len(lacking),
                len(done),
            )

    def write_tables(self, folder: Path) -> list[Path]:
        """The leaderboard of what has ended, with all that belongs to it; paths of the files."""
        from backdoor_pipeline.experiments.exports import write

        def load_predictions(path: str) -> pd.DataFrame:
            return pd.read_parquet(self.data_dir / path)

        tasks = (task.name for task in plan(self.cells))
        path = folder / "machines.json"
        write_json(path, self.records.machines(tasks))
        return [*write(folder, self.table(), load_predictions), path]

    def _tracked(self, executor: Executor) -> GridRun | None:
        settings = check_settings(self.loader["mlflow"])
        if not settings.enabled:
            return None
        if len(executor.hosts) > 1 and sqlite_file(settings.tracking_uri):
            raise InputError(f"{SEVERAL_HOSTS} (hosts: {', '.join(sorted(executor.hosts))})")
        return GridRun.open(settings, self.name, self.folder)

    @property
    def _locks(self) -> Path:
        return self.data_dir / ".locks"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds the grid's lock."""
        path = self._locks / f"grid.{self.name}.lock"
        lock = hold(
            path, f"this grid is being run already (another process holds {path}); wait for it"
        )
        try:
            yield
        finally:
            lock.release()


def _find(project: Path, grid_file: str) -> Path:
    path = Path(grid_file)
    if path.is_file():
        return path
    known = {found.stem: found for found in sorted(project.glob(f"conf/*/{GRIDS}/*.yml"))}
    if grid_file in known:
        return known[grid_file]
    raise InputError(f"there is no grid file {grid_file}{did_you_mean(grid_file, set(known))}")
