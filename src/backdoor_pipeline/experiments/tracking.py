"""A grid in MLflow: one parent run, and under it one run for each cell.

All of them are made before any cell starts, so that no worker makes a table or an experiment. A run
waits as SCHEDULED, and ends as FINISHED or FAILED.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.experiments.cells import Cell
from backdoor_pipeline.hooks.mlflow_run import (
    MlflowRun,
    TrackingSettings,
    alone,
    connect,
    one_clear_error,
    quickly,
    sqlite_file,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

GRID, CELL, PARENT = "grid", "cell", "mlflow.parentRunId"
WAITING, FINISHED, FAILED = "SCHEDULED", "FINISHED", "FAILED"
ENDED = {FINISHED, FAILED, "KILLED"}
DIED = "its process ended without a word"


@dataclass(frozen=True)
class GridRun:
    """The runs of a grid.

    Attributes:
        settings: Of the tracking store.
        experiment: Id of the experiment.
        parent: Id of the parent run.
        host: Where the grid was started.
    """

    settings: TrackingSettings
    experiment: str
    parent: str
    host: str

    @classmethod
    def open(cls, settings: TrackingSettings, name: str, folder: Path) -> GridRun:
        """The runs of the grid ``name``, whose records lie in ``folder``; made where new.

        Raises:
            StoreError: The tracking store does not answer.
        """
        host = socket.gethostname()
        with one_clear_error(settings), alone(settings.tracking_uri):
            client, experiment = connect(settings)
            tag = f"{host}:{folder}"
            grids = client.search_runs([experiment], f"tags.{GRID} LIKE '%'")
            if found := [run for run in grids if run.data.tags[GRID] == tag]:
                parent = found[0].info.run_id
                client.update_run(parent, status="RUNNING")
            else:
                tags = {GRID: tag, "mlflow.source.name": "kedro benchmark"}
                made = client.create_run(experiment, run_name=f"benchmark {name}", tags=tags)
                parent = made.info.run_id
        return cls(settings, experiment, parent, host)

    def prepare(self, cells: Iterable[Cell], again: Set[str]) -> set[str]:
        """Make a waiting run for each cell that has no finished one, or whose id is in ``again``.

        Runs of other cells that wait or that somebody has left running are ended.

        Returns:
            Ids of the cells whose runs wait.
        """
        with one_clear_error(self.settings), alone(self.settings.tracking_uri):
            client = self._client()
            waiting: dict[str, Run] = {}
            finished = set()
            for run in self._children(client):
                cell, status = run.data.tags[CELL], run.info.status
                if status == FINISHED and cell not in again:
                    finished.add(cell)
                elif status == WAITING and cell not in waiting:
                    waiting[cell] = run
                else:
                    self._retire(client, run)
            wanted = {cell.id: cell for cell in cells if cell.id not in finished}
            for cell in waiting.keys() - wanted.keys():
                self._retire(client, waiting[cell])
            for cell in wanted.keys() - waiting.keys():
                coordinates = wanted[cell].coordinates.items()
                tags = {f"cell.{name}": str(value) for name, value in coordinates}
                self._new(client, str(wanted[cell]), tags | {CELL: cell})
        return set(wanted)

    def claim(self, cell: str) -> dict[str, str]:
        """The parameters ``tracking`` of the process that runs a cell now.

        The cell's waiting run is its; what earlier attempts have left is ended, and without a
        waiting run a new one takes its place. Nothing if the store does not answer: the cell is
        run all the same, and recorded when the grid is run again.

        Raises:
            InputError: The store is a file on another host.
        """
        if sqlite_file(self.settings.tracking_uri) and socket.gethostname() != self.host:
            raise InputError(SEVERAL_HOSTS)
        with suppress(Exception), quickly():
            client = self._client()
            own = list(self._children(client, cell))
            waiting = [run.info.run_id for run in own if run.info.status == WAITING][:1]
            for run in own:
                if run.info.run_id not in waiting:
                    self._retire(client, run)
            name = own[0].info.run_name
            tags = {k: v for k, v in own[0].data.tags.items() if k.startswith(CELL)}
            (run_id,) = waiting or [self._new(client, name, tags)]
            return {"run_id": run_id, "parent_run_id": self.parent, "run_name": name}
        return {}

    def settle(self, errors: Mapping[str, str]) -> None:
        """End the open runs of cells whose processes could not.

        Args:
            errors: Cell's id -> what went wrong.
        """
        with suppress(Exception), quickly():
            client = self._client()
            for run in self._children(client):
                if run.data.tags[CELL] in errors and run.info.status not in ENDED:
                    MlflowRun(client, run.info.run_id).end(FAILED, errors[run.data.tags[CELL]])

    def finished(self) -> set[str]:
        """Ids of the cells that are recorded; none if the store does not answer."""
        with suppress(Exception), quickly():
            children = self._children(self._client())
            return {run.data.tags[CELL] for run in children if run.info.status == FINISHED}
        return set()

    def close(self, status: str, files: Sequence[Path], numbers: Mapping[str, float]) -> None:
        """End the parent run, with the tables of the grid."""
        with suppress(Exception), quickly():
            parent = MlflowRun(self._client(), self.parent)
            try:
                parent.log_metrics(numbers)
                for file in files:
                    parent.log_file(file, None)
            finally:
                parent.end(status)

    def _client(self) -> MlflowClient:
        from mlflow import MlflowClient

        return MlflowClient(self.settings.tracking_uri)

    def _children(self, client: MlflowClient, cell: str | None = None) -> Iterable[Run]:
        """The runs of one cell; None: of all."""
        wanted = f"tags.`{PARENT}` = '{self.parent}'"
        if cell is not None:
            wanted += f" and tags.{CELL} = '{cell}'"
        token: Any = None
        while True:
            page = client.search_runs([self.experiment], wanted, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _retire(self, client: MlflowClient, run: Run) -> None:
        """Make room for another attempt: what has died has failed, what is lost had not been."""
        if run.info.status == FINISHED:  # it died before its record was written
            client.delete_run(run.info.run_id)
        elif run.info.status not in ENDED:
            MlflowRun(client, run.info.run_id).end(FAILED, DIED)

    def _new(self, client: MlflowClient, name: str, tags: Mapping[str, str]) -> str:
        made = client.create_run(self.experiment, run_name=name, tags={**tags, PARENT: self.parent})
        client.update_run(made.info.run_id, status=WAITING)
        return str(made.info.run_id)


SEVERAL_HOSTS = (
    "a grid on several hosts cannot be recorded in a sqlite file, which only one host can write "
    "to; start `mlflow server` and name it with MLFLOW_TRACKING_URI=http://HOST:PORT, "
    "or set BACKDOOR_TRACKING=false to record nothing in MLflow"
)
