"""A task's process: tried again when it dies, not when it fails; gone when its parent is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backdoor_pipeline.experiments import process
from backdoor_pipeline.experiments.cells import Cell
from backdoor_pipeline.experiments.process import ATTEMPTS, Outcome, Site, perform
from backdoor_pipeline.experiments.records import DONE, FAILED, Records
from backdoor_pipeline.experiments.tasks import Task
from tiny import ROOT

TASK = Task("cell-1", Cell({"seed": 0}, "btu", {"seed": 0}, 1, {"btu": "cell-1"}), ("btu",), 1)
START = """
import json, os, signal, sys, time
from pathlib import Path
from backdoor_pipeline.experiments import worker
from backdoor_pipeline.experiments.records import Records
def run_job(job):
    def end(status, error=None):
        Records(Path(job["records"])).write(job["about"]["task"], {**job["about"],
            "status": status, "error": error, "job": job["id"], "attempt": job["attempt"],
            "threads": os.environ["OMP_NUM_THREADS"],
            "environment": job["environment"]})
    print("attempt", job["attempt"], flush=True)
    %s
    return 0
worker.preload, worker.run_job = (lambda: None), run_job
worker.serve()
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield Site(ROOT, "base", Records(tmp_path), threads=1)
    process._server.cache_clear()


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Lets a line of code stand for what the worker does."""

    def stand_in(line: str, start: str = START) -> None:
        path = tmp_path / "worker.py"
        path.write_text(start.replace("%s", line))
        monkeypatch.setattr(process, "WORKER", (sys.executable, str(path)))
        monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))

    return stand_in


def test_a_worker_that_goes_through(site, worker) -> None:
    worker("end('done')")
    outcome = perform(site, TASK, [])
    assert (outcome.task, outcome.status, outcome.error) == ("cell-1", DONE, None)
    assert outcome.seconds > 0
    record = site.records.read("cell-1")
    assert record["cell"] == {"seed": 0}
    assert record["threads"] == "1"
    assert record["environment"]["BACKDOOR_TRACKING"] == "false"
    assert "attempt 1" in site.records.log("cell-1").read_text()


def test_a_process_that_dies_is_tried_again(site, worker) -> None:
    worker("end('done') if job['attempt'] == 3 else os.kill(os.getpid(), signal.SIGKILL)")
    assert perform(site, TASK, []).status == DONE
    assert site.records.read("cell-1")["attempt"] == 3
    assert site.records.log("cell-1").read_text().split() == "attempt 1 attempt 2 attempt 3".split()


def test_a_process_that_always_dies_has_failed(site, worker) -> None:
    worker("os.kill(os.getpid(), signal.SIGKILL)")
    outcome = perform(site, TASK, [])
    assert outcome.status == FAILED
    assert f"killed by SIGKILL {ATTEMPTS} times" in outcome.error
    assert site.records.read("cell-1") is None  # the driver writes it


def test_who_died_after_the_record_is_done(site, worker) -> None:
    worker("end('done'); os.kill(os.getpid(), signal.SIGKILL)")
    assert perform(site, TASK, []).status == DONE
    assert site.records.read("cell-1")["attempt"] == 1


def test_wrong_parameters_are_not_tried_again(site, worker) -> None:
    worker("end('failed', 'seed is -1'); return 1")
    outcome = perform(site, TASK, [])
    assert (outcome.status, outcome.error) == (FAILED, "seed is -1")
    assert site.records.read("cell-1")["attempt"] == 1


def test_a_task_that_ends_without_a_record(site, worker) -> None:
    worker("raise SystemExit('no words')")
    outcome = perform(site, TASK, [])
    assert outcome.status == FAILED
    assert "ended with status 1" in outcome.error
    assert "no words" in site.records.log("cell-1").read_text()


def test_a_server_that_cannot_start(site, worker) -> None:
    worker("", start="import sys; sys.exit(2)")
    outcome = perform(site, TASK, [])
    assert outcome.status == FAILED
    assert "ended with status 2" in outcome.error


def test_what_is_printed_while_a_server_starts_is_no_answer(site, worker) -> None:
    noisy = START.replace("lambda: None", "lambda: __import__('this')")
    worker("end('done')", start=noisy)  # `import this` prints a poem
    assert perform(site, TASK, []).status == DONE


def test_a_server_that_is_killed_is_started_again(site, worker) -> None:
    worker("end('done') if job['attempt'] == 2 else os.kill(os.getppid(), signal.SIGKILL)")
    assert perform(site, TASK, []).status == DONE
    assert site.records.read("cell-1")["attempt"] == 2


def test_one_server_for_all_tasks(site, worker) -> None:
    worker("end('done', str(os.getppid()))")
    perform(site, TASK, [])
    first = site.records.read("cell-1")["error"]
    perform(site, TASK, [])
    assert site.records.read("cell-1")["error"] == first


def test_what_needs_a_failed_task_is_not_started(site, worker) -> None:
    worker("end('done')")
    before = [Outcome("data", DONE, None, 1.0), Outcome("victim-1", FAILED, "no memory", 1.0)]
    outcome = perform(site, TASK, before)
    assert outcome.status == FAILED
    assert outcome.error == "what it needs has failed (victim-1): no memory"
    assert not site.records.log("cell-1").exists()


def test_an_old_record_does_not_pass_for_a_new_one(site, worker) -> None:
    site.records.write("cell-1", {"status": DONE, "error": None})
    worker("return 2")
    outcome = perform(site, TASK, [])
    assert (outcome.status, outcome.recorded) == (FAILED, False)
    assert site.records.status("cell-1") == DONE  # what was done stays done


def test_server_and_task_end_with_their_parent(tmp_path, worker, site) -> None:
    worker(f"Path({str(tmp_path / 'pids')!r}).write_text(f'{{os.getppid()}} {{os.getpid()}}'); "
           "time.sleep(600)")  # fmt: skip
    program = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(ROOT / "tests")!r}, {str(ROOT / "src")!r}]
from backdoor_pipeline.experiments import process
process.WORKER = {process.WORKER!r}
process.Server(Path({str(ROOT)!r}), Path({str(tmp_path)!r}), 1).run(
    dict(task="x", attempt=1, log={str(tmp_path / "log")!r}), Path({str(tmp_path / "job")!r}))
"""
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        wait_until((tmp_path / "pids").exists)
        wait_until(lambda: len((tmp_path / "pids").read_text().split()) == 2)
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert all(is_running(pid) for pid in pids)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_job_can_be_read_by_people(site, worker) -> None:
    worker("end('done')")
    perform(site, TASK, [])
    job = json.loads(site.records.job("cell-1").read_text())
    about = job["about"]
    assert about["pipeline"] == "btu"
    assert about["finishes_cell"] is True
    assert about["settings"] == {"seed": 0}
