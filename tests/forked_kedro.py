"""``kedro`` in forks of one process that has imported what its commands import: seconds less each.

    python tests/forked_kedro.py

imports once, and then forks a process for each command that a line of its standard input describes
(a JSON object: the arguments, the environment and the files of what is printed). The answer is the
exit status. Each command is a process of its own, as it is for a user, but for its imports.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backdoor_pipeline.experiments.worker import PRELOADED, preload

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = (
    *PRELOADED,
    "backdoor_pipeline.cli",
    "backdoor_pipeline.experiments.commands",
    "kedro.framework.cli.cli",
)
TIMEOUT = 600  # seconds that a command may take


class ForkedKedro:
    """Starts commands of ``kedro`` one after the other; used as a context manager."""

    def __enter__(self) -> ForkedKedro:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def run(
        self, arguments: Sequence[str], env: Mapping[str, str], folder: Path
    ) -> subprocess.CompletedProcess[str]:
        """``kedro`` with these arguments, to its end.

        Args:
            arguments: Of ``kedro``.
            env: Its environment.
            folder: What it prints is kept here for as long as it runs.
        """
        output, errors = folder / "stdout.txt", folder / "stderr.txt"
        command = {"arguments": [*arguments], "environment": dict(env)}
        line = json.dumps(command | {"stdout": str(output), "stderr": str(errors)})
        assert self._server.stdin is not None  # both are pipes
        assert self._server.stdout is not None
        self._server.stdin.write(f"{line}\n")
        self._server.stdin.flush()
        status = int(self._server.stdout.readline())
        said = [path.read_text(encoding="utf-8") for path in (output, errors)]
        for path in (output, errors):
            path.unlink()
        return subprocess.CompletedProcess(["kedro", *arguments], status, *said)


def import_all() -> None:
    """Import what the commands do; no thread computes, so that a fork may follow."""
    preload(IMPORTED)
    from kedro.framework.cli.utils import load_entry_points

    for group in ("global", "project"):  # of plugins such as kedro-viz
        load_entry_points(group)
    gc.freeze()  # as preload does


def kedro(arguments: Sequence[str]) -> None:
    """Run ``kedro`` in this process, and end it."""
    sys.argv = ["kedro", *arguments]
    runpy.run_module("kedro", run_name="__main__", alter_sys=True)
    sys.exit()


def serve() -> None:
    """Run each command that the standard input describes, until it closes."""
    answers = os.fdopen(os.dup(1), "w")
    import_all()
    for line in sys.stdin:
        process = os.fork()
        if not process:
            run(json.loads(line))
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        answers.write(f"{status}\n")
        answers.flush()


def run(command: Mapping[str, Any]) -> None:
    """The command in this process, which is its own."""
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for stream, name in enumerate(("stdout", "stderr"), start=1):
        with open(command[name], "wb") as file:
            os.dup2(file.fileno(), stream)
    os.environ.clear()
    os.environ.update(command["environment"])
    signal.alarm(TIMEOUT)
    kedro(command["arguments"])


if __name__ == "__main__":
    serve()
