"""``kedro`` that is killed inside each node of a run in turn, and started again each time.

``python tests/killed_run.py DIARY SECONDS ARGUMENTS`` runs ``kedro ARGUMENTS`` that way and writes
into the file DIARY, one line each, ``killed NODE`` and, where a node had to begin again, ``again
NODE``. SECONDS is a JSON object: how long after its beginning a node is killed, by its name; others
are killed before their function is called.

Every start is a fork of one process that has only imported what they all import: a second instead
of many. Exit status: that of the start that was not killed.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from threading import Thread

from forked_kedro import import_all, kedro

ANNOUNCEMENT = "Running node: "


def killed_in_turn(diary: Path, seconds: dict[str, float], arguments: list[str]) -> int:
    """Start ``kedro`` until nothing kills it, and return its exit status."""
    import_all()
    diary.touch()
    while True:
        process = os.fork()
        if not process:
            kill_inside(diary, seconds)
            kedro(arguments)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if status != -signal.SIGKILL:
            return status


def kill_inside(diary: Path, seconds: dict[str, float]) -> None:
    """From now on, kill this process in the first node that the diary does not know."""

    def watch(record: logging.LogRecord) -> bool:
        announcement, _, node = record.getMessage().partition(ANNOUNCEMENT)
        if not announcement and node:
            name = node.partition(":")[0]
            is_new = f"killed {name}" not in diary.read_text(encoding="utf-8").splitlines()
            with diary.open("a", encoding="utf-8") as lines:
                lines.write(f"{'killed' if is_new else 'again'} {name}\n")
            if is_new and name in seconds:
                Thread(target=kill, args=[seconds[name]], daemon=True).start()
            elif is_new:
                kill(0)
        return True

    logging.getLogger("kedro.pipeline.node").addFilter(watch)


def kill(after: float) -> None:
    time.sleep(after)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(killed_in_turn(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]))
