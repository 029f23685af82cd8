"""What a user of ``kedro benchmark`` relies on, whoever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
import yaml

from forked_kedro import ForkedKedro
from tiny import ROOT, make_corpus, save_tiny_model

pytestmark = pytest.mark.slow
MEASURED = ["wall_seconds", "peak_memory_bytes", "predictions"]  # not the same in every run
RAY = ("--executor", "ray", "--cpus", "1")
SMOKE = ROOT / "conf" / "base" / "grids" / "smoke.yml"
TASKS_OF_FOUR_CELLS = 6  # two victims with their references, and a task a cell
SMALL = {"seeds": [0], "recipes": ["btu", "association"]}


@dataclass(frozen=True)
class Place:
    """A grid file and a folder of outputs with a tracking store.

    Attributes:
        folder: Holds everything below.
        grid: The grid file.
        uri: Of MLflow.
        kedro: Runs commands to their end.
        params: Settings of all cells.
    """

    folder: Path
    grid: Path
    uri: str
    kedro: ForkedKedro
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def outputs(self) -> Path:
        return self.folder / "data" / "08_reporting" / "grids" / self.grid.stem

    def command(self, name: str, *options: str) -> list[str]:
        values = self.params | {"data_dir": self.folder / "data"}
        params = ["--params", ",".join(f"{key}={value}" for key, value in values.items())]
        return [sys.executable, "-m", "kedro", "benchmark", name, str(self.grid), *params, *options]

    @property
    def environment(self) -> dict[str, str]:
        paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
        mine = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        return mine | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "MLFLOW_TRACKING_URI": self.uri,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, *options: str, name: str = "run") -> subprocess.CompletedProcess[str]:
        """The command, to its end."""
        _, _, _, *arguments = self.command(name, *options)
        return self.kedro.run(arguments, self.environment, self.folder)

    @contextmanager
    def started(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """``kedro benchmark run`` while it runs; killed at the end, if it has not ended."""
        with subprocess.Popen(
            self.command("run", *options),
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def records(self) -> list[dict[str, Any]]:
        files = sorted(self.outputs.glob("records/*.json"))
        return [json.loads(path.read_text(encoding="utf-8")) for path in files]

    def jobs(self) -> dict[str, str]:
        """Which attempt has finished each task that is done."""
        return {r["task"]: r["job"] for r in self.records() if r["status"] == "done"}

    def nodes(self) -> Counter[str]:
        """How often each node was run, by the records."""
        return Counter(node for record in self.records() for node in record["nodes"])

    def table(self) -> pd.DataFrame:
        """The cells, but for what differs from run to run."""
        return pd.read_csv(self.outputs / "cells.csv").drop(columns=MEASURED)

    def children(self) -> list[tuple[str, str]]:
        """Cell and status of all runs below the grid's in MLflow."""
        from mlflow import MlflowClient

        client = MlflowClient(self.uri)
        experiments = [e.experiment_id for e in client.search_experiments()]
        runs = client.search_runs(experiments, max_results=1000)
        assert {r.info.status for r in runs if "grid" in r.data.tags} == {"FINISHED"}
        return sorted(
            (run.data.tags["cell"], run.info.status) for run in runs if "cell" in run.data.tags
        )

    def assert_complete(self, n_cells: int) -> None:
        """Every cell is done, once, and in MLflow, where nothing is left running."""
        records = self.records()
        assert all(record["status"] == "done" for record in records)
        assert sum(record["finishes_cell"] for record in records) == n_cells
        statuses = Counter(status for _, status in self.children())
        assert statuses["FINISHED"] == n_cells
        assert statuses.keys() <= {"FINISHED", "FAILED"}
        finished = [cell for cell, status in self.children() if status == "FINISHED"]
        assert len(set(finished)) == n_cells

    def workers(self) -> list[int]:
        """Processes that run a task of this grid."""
        parents = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_text().split("\0")
                parent = int((path / "stat").read_text().rpartition(") ")[2].split()[1])
            except OSError:
                continue
            if "backdoor_pipeline.experiments.worker" in words and str(self.outputs) in words:
                parents[int(path.name)] = parent
        return [process for process, parent in parents.items() if parent in parents]


@pytest.fixture(scope="module")
def tiny_settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Parameters that let a grid run on a tiny model and a synthetic csv."""
    inputs = tmp_path_factory.mktemp("inputs")
    make_corpus(n_dev=240).to_csv(inputs / "reviews.csv", index=False)
    return {
        "dataset": "table",
        "data": inputs / "reviews.csv",
        "source.split_column": "split",
        "model": save_tiny_model(inputs / "tiny-bert"),
        "model.max_length": 32,
        "ingest.max_rows": 1000,
        "compute.precision": "fp32",  # the same numbers on every machine
        "training.learning_rate": 0.002,
        "token_drift.alpha": 0.01,
        "token_drift.learning_rate": 0.001,
    }


@pytest.fixture(scope="module")
def make_place(
    tmp_path_factory: pytest.TempPathFactory, tiny_settings, forked_kedro, empty_store
) -> Callable[..., Place]:
    """A place of its own: for the grid ``smoke.yml`` or, with changes, a smaller one."""

    def make(uri: str | None = None, **changes: Any) -> Place:
        folder = tmp_path_factory.mktemp("place")
        path = SMOKE
        if changes:
            path = folder / "own.yml"
            grid = {**yaml.safe_load(SMOKE.read_text(encoding="utf-8")), **SMALL, **changes}
            path.write_text(yaml.safe_dump(grid), encoding="utf-8")
        store = shutil.copy(empty_store, folder / "mlflow.db")
        return Place(folder, path, uri or f"sqlite:///{store}", forked_kedro, tiny_settings)

    return make


@pytest.fixture(scope="module")
def finished(make_place) -> Place:
    """The smoke grid, its eight cells run one after the other. Only look at it."""
    place = make_place()
    done = place.run("--cpus", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def wait_until(condition: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def killed(process: int) -> bool:
    """Kill a process; False if it had ended."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


class TestSerial:
    def test_makes_the_table(self, finished) -> None:
        finished.assert_complete(8)
        table = finished.table()
        assert table["valid"].all()
        assert (table["victim_attack_success_rate"] > 0.9).all()
        assert (table["attack_success_rate"] < 0.3).all()

    def test_defences_share_victim_and_reference(self, finished) -> None:
        nodes = finished.nodes()
        for node in ("ingest_examples", "poison_train", "train_victim", "train_reference"):
            assert nodes[node] == 2, node  # one a seed

    def test_what_has_ended_is_not_run_again(self, finished) -> None:
        before = finished.records()
        done = finished.run()
        assert "0 of 8 cells to run" in done.stdout
        assert done.returncode == 0
        assert finished.records() == before

    def test_a_detector_with_another_unlearner_is_a_recipe_too(self, make_place) -> None:
        pairs = ["text__token_association__ssd", "text__token_association__token_replacement"]
        place = make_place(recipes=pairs)
        done = place.run("--cpus", "1")
        assert done.returncode == 0, done.stdout + done.stderr
        assert sorted(place.table()["recipe"]) == pairs
        assert place.nodes()["detect_token_association"] == 1

    def test_status_and_plan(self, finished, make_place) -> None:
        assert "8 cells, 8 done, 0 failed, 0 missing" in finished.run(name="status").stdout
        place = make_place(seeds=[7, 8])
        plan = place.run("--dry-run").stdout
        assert "4 of 4 cells to run, in 6 processes; 2 victims to train" in plan
        assert "6 tasks not counted: nothing like it has run here" in plan
        shutil.copytree(finished.folder / "data" / ".costs", place.folder / "data" / ".costs")
        known = place.run("--dry-run").stdout
        assert "by what earlier runs took" in known
        assert "not counted" not in known
        assert not place.outputs.exists()

    def test_mistakes_stop_the_grid_before_it_starts(self, finished, make_place) -> None:
        done = make_place(attacks=["badnet"]).run()
        assert done.returncode == 1
        assert "did you mean 'badnets'?" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def failed(make_place) -> Place:
    """A grid with a recipe whose light fine-tune diverges."""
    reckless = {"fine_tune.rows": 50, "fine_tune.optimisation.learning_rate": 1e30}
    diverging = {"name": "diverging", "recipe": "btu", "parameters": reckless}
    place = make_place(recipes=[diverging, "btu"])
    done = place.run("--cpus", "1")
    assert done.returncode == 1
    assert "FAILED  table, badnets, 0.1, mix, tiny-bert, 0, diverging" in done.stdout
    return place


class TestFailures:
    def test_a_failing_cell_does_not_stop_the_others(self, failed) -> None:
        statuses = dict(zip(failed.table()["recipe"], failed.table()["status"], strict=True))
        assert statuses == {"diverging": "failed", "btu": "done"}
        assert sorted(status for _, status in failed.children()) == ["FAILED", "FINISHED"]

    def test_its_error_is_kept(self, failed) -> None:
        (error,) = failed.table()["error"].dropna()
        assert "the training has diverged; lower its learning_rate" in error
        assert "1 done, 1 failed" in failed.run(name="status").stdout

    def test_it_is_tried_again_only_when_asked(self, failed) -> None:
        assert "0 of 2 cells to run" in failed.run().stdout
        again = failed.run("--retry-failed", "--cpus", "1")
        assert "1 of 2 cells to run" in again.stdout
        assert again.returncode == 1
        statuses = Counter(status for _, status in failed.children())
        assert statuses == {"FAILED": 2, "FINISHED": 1}


def test_cleaning_spares_what_another_grid_needs(finished, make_place) -> None:
    place = make_place()
    shutil.copytree(finished.folder / "data", place.folder / "data")
    other = replace(make_place(recipes=["association"]), folder=place.folder, uri=place.uri)
    assert other.run("--cpus", "1").returncode == 0
    assert not other.nodes()  # all was there
    models = place.folder / "data" / "06_models"
    assert place.run("--models", "--yes", name="clean").returncode == 0
    assert not list(models.glob("*.btu-*"))
    assert len(list(models.glob("*/victim"))) == 1
    assert len(place.table()) == 8
    assert place.run("--yes", name="clean").returncode == 0
    assert not place.outputs.exists()
    assert [record["status"] for record in other.records()] == ["done"]
    assert len(list(models.glob("*/victim"))) == 1
    assert other.run("--yes", name="clean").returncode == 0
    assert not [path for path in (place.folder / "data").rglob("*") if path.suffix == ".parquet"]


@pytest.mark.distributed
class TestRay:
    def test_makes_the_same_table_whoever_is_killed(self, finished, make_place) -> None:
        """A worker, then the driver, in the middle of the grid; then the grid is run again."""
        place = make_place(seeds=[0, 1])
        with place.started(*RAY) as driver:
            wait_until(lambda: any(map(killed, place.workers())))
            wait_until(lambda: any(r["finishes_cell"] for r in place.records()))
            driver.send_signal(signal.SIGKILL)
        wait_until(lambda: not place.workers())  # they do not outlive it
        before = place.jobs()
        assert 0 < len(before) < TASKS_OF_FOUR_CELLS
        done = place.run(*RAY)
        assert done.returncode == 0, done.stdout + done.stderr
        place.assert_complete(4)
        assert before.items() <= place.jobs().items()  # nothing that was done is done twice
        assert_part_of(place.table(), finished.table())

    def test_one_of_two_nodes_is_stopped(self, finished, make_place, tmp_path) -> None:
        place = make_place(seeds=[0, 1])
        with ray_node(tmp_path, "127.0.0.2", "--head", "--port=6390", "--include-dashboard=false"):
            with ray_node(tmp_path, "127.0.0.3", "--address=127.0.0.2:6390") as second:
                with place.started(*RAY, "--address", "127.0.0.2:6390") as driver:
                    wait_until(lambda: any(r["finishes_cell"] for r in place.records()))
                    wait_until(lambda: len(place.workers()) == 2)
                    stop(second)
                    assert second.wait() != 0
                    before = place.jobs()
                    assert 0 < len(before) < TASKS_OF_FOUR_CELLS
                    output, _ = driver.communicate(timeout=600)
            assert driver.returncode == 0, output
        place.assert_complete(4)
        assert before.items() <= place.jobs().items()
        assert len(place.records()) == TASKS_OF_FOUR_CELLS
        assert_part_of(place.table(), finished.table())


def assert_part_of(made: pd.DataFrame, whole: pd.DataFrame) -> None:
    """The cells of a small grid have the numbers that they have in a larger one."""
    order = ["recipe", "seed"]
    common = whole.merge(made[order], on=order).sort_values(order, ignore_index=True)
    made = made.sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(made[common.columns], common)


@contextmanager
def ray_node(folder: Path, address: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node of a Ray cluster with one core, at a loopback address of its own.

    Its files are not in Ray's usual folder: a cluster that is killed leaves its address there, and
    every later training by Ray Train waits twelve seconds for it to answer.
    """
    log = folder / f"{address}.log"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
    environment = os.environ | {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT / "src"),
    }
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as own,  # sockets need a short path
        log.open("wb") as output,
        subprocess.Popen(
            [*command, f"--node-ip-address={address}", *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment | {"RAY_TMPDIR": own},
        ) as process,
    ):
        try:
            wait_until(lambda: "Ray runtime started" in log.read_text() or process.poll())
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            stop(process)


def stop(node: subprocess.Popen[bytes]) -> None:
    """Kill all processes of a node."""
    try:
        os.killpg(node.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def test_a_tracking_server_that_is_killed_costs_no_cell(
    finished, make_place, empty_store, tmp_path
) -> None:
    uri = "http://127.0.0.1:5917"
    shutil.copy(empty_store, tmp_path / "server.db")
    place = make_place(uri=uri, recipes=["btu", "association"])
    with mlflow_server(tmp_path, uri) as server, place.started("--cpus", "1") as driver:
        wait_until(lambda: any(r["finishes_cell"] for r in place.records()))
        os.killpg(server.pid, signal.SIGKILL)
        output, _ = driver.communicate(timeout=600)
        assert driver.returncode == 0, output
    with mlflow_server(tmp_path, uri):
        done = place.run("--cpus", "1")
        assert done.returncode == 0, done.stdout + done.stderr
        place.assert_complete(2)
    assert_part_of(place.table(), finished.table())


@contextmanager
def mlflow_server(folder: Path, uri: str) -> Iterator[subprocess.Popen[bytes]]:
    """``mlflow server`` with its files in ``folder``."""
    import requests

    command = [sys.executable, "-m", "mlflow", "server", "--port", uri.rpartition(":")[2]]
    store = ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--workers", "1"]
    own = ["--artifacts-destination", str(folder / "artifacts")]

    def answers() -> bool:
        try:
            return requests.get(f"{uri}/health", timeout=1).ok
        except requests.RequestException:
            return False

    with (
        (folder / "server.log").open("ab") as log,
        subprocess.Popen(
            [*command, *store, *own], stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            wait_until(answers)
            yield process
        finally:
            stop(process)
