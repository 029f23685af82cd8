"""Runs one task in a process of its own, again if the process dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from backdoor_pipeline.datasets.whole import write_json
from backdoor_pipeline.experiments.records import FAILED, Records
from backdoor_pipeline.experiments.tasks import Task
from backdoor_pipeline.experiments.tracking import GridRun

ATTEMPTS = 3
"""How often a task is tried whose process dies; one that fails by itself is not tried again."""

WORKER = (sys.executable, "-m", f"{__package__}.worker")
KILLED = -signal.SIGKILL
PER_TASK = ("CUDA_VISIBLE_DEVICES",)
"""Variables of the environment that Ray sets anew for each task."""


class Outcome(NamedTuple):
    """How a task has ended.

    Attributes:
        task: Its name.
        status: ``records.DONE`` or ``FAILED``.
        error: What went wrong, for the user.
        seconds: From its start to its end, all attempts together.
        recorded: Whether its process has written the record.
    """

    task: str
    status: str
    error: str | None = None
    seconds: float = 0.0
    recorded: bool = False


@dataclass(frozen=True)
class Site:
    """What all tasks of a grid have in common, wherever they run.

    Attributes:
        project: Root of the Kedro project.
        env: Its environment; None: Kedro's default one.
        records: Where the tasks leave their records and logs.
        threads: Of each process.
        tracking: The grid in MLflow; None if nothing is recorded there.
        environment: Variables that every process needs, on other hosts too.
    """

    project: Path
    env: str | None
    records: Records
    threads: int
    tracking: GridRun | None = None
    environment: dict[str, str] = field(default_factory=dict)


def perform(site: Site, task: Task, before: Sequence[Outcome]) -> Outcome:
    """Run ``task``, unless one of the tasks ``before`` it has failed."""
    for outcome in before:
        if outcome.status == FAILED:
            error = f"what it needs has failed ({outcome.task}): {outcome.error}"
            return Outcome(task.name, FAILED, error)
    start = time.monotonic()
    os.environ |= site.environment
    server = _server(site.project, site.records.folder, site.threads)
    for attempt in range(1, ATTEMPTS + 1):
        job = _job(site, task, _claim(site, task))
        status = server.run(job | {"attempt": attempt}, site.records.job(task.name))
        record = site.records.read(task.name) or {}
        recorded = record.get("job") == job["id"]
        if recorded or status >= 0:
            break
    seconds = time.monotonic() - start
    if recorded:
        return Outcome(task.name, record["status"], record["error"], seconds, recorded)
    died = f"its process ended with status {status}"
    if status < 0:
        killer = signal.Signals(-status).name
        died = f"its process was killed by {killer} {ATTEMPTS} times (out of memory?)"
    return Outcome(task.name, FAILED, f"{died}; see its log and server.log", seconds)


def describe(task: Task) -> dict[str, Any]:
    """What the record of a task says of it, however it ends."""
    cell = task.cell
    return {
        "task": task.name,
        "finishes_cell": task.finishes,
        "used_by": task.users,
        "stages": list(task.stages),
        "pipeline": cell.pipeline,
        "cell": cell.coordinates if task.finishes else None,
        "settings": cell.settings,
        "keys": cell.keys,
    }


def _job(site: Site, task: Task, tracking: dict[str, str]) -> dict[str, Any]:
    return {
        "id": uuid.uuid4().hex,
        "about": describe(task),
        "project": str(site.project),
        "env": site.env,
        "tracking": tracking,
        "environment": {
            **({} if tracking else {"BACKDOOR_TRACKING": "false"}),
            **{name: os.environ[name] for name in PER_TASK if name in os.environ},
        },
        "records": str(site.records.folder),
        "log": str(site.records.log(task.name)),
    }


def _claim(site: Site, task: Task) -> dict[str, str]:
    """Which MLflow run this attempt writes to; nothing for what several cells share."""
    if site.tracking is None or not task.finishes:
        return {}
    return site.tracking.claim(task.cell.id)


@cache
def _server(project: Path, folder: Path, threads: int) -> Server:
    """The server of this process for a grid."""
    return Server(project, folder, threads)


class Server:
    """A process that forks one for each job, so that what all import is imported once.

    Args:
        project: Root of the Kedro project, its current directory.
        folder: Of the grid.
        threads: Of each job.
    """

    def __init__(self, project: Path, folder: Path, threads: int) -> None:
        self._project, self._folder, self._threads = project, folder, threads
        self._process: subprocess.Popen[str] | None = None

    def run(self, job: dict[str, Any], path: Path) -> int:
        """Exit status of a job; negative: the signal that has killed it, or the server.

        Args:
            job: What to do, see ``worker``.
            path: File that it is handed over in.
        """
        write_json(path, job)
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        questions, answers = self._process.stdin, self._process.stdout
        assert questions is not None  # both are pipes
        assert answers is not None
        try:
            questions.write(f"{path}\n")
            questions.flush()
            answer = answers.readline()
        except BrokenPipeError:
            answer = ""
        except BaseException:  # Ctrl-C: the server ends with its input, the job with the server
            self._process.kill()
            raise
        return int(answer) if answer else self._ended()

    def _ended(self) -> int:
        """How the server has ended: by itself only if it could not start."""
        assert self._process is not None
        status = self._process.wait()
        return status if status > 0 else KILLED

    def _start(self) -> subprocess.Popen[str]:
        threads, logging = str(self._threads), self._project / "conf" / "logging.yml"
        environment = {
            **({"KEDRO_LOGGING_CONFIG": str(logging)} if logging.exists() else {}),
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "RAYON_NUM_THREADS": threads,  # of the tokenizers
        }
        logs = self._folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / "server.log").open("ab") as log:
            return subprocess.Popen(
                [*WORKER, str(self._folder)],
                cwd=self._project,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
