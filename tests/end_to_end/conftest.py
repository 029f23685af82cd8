"""One finished run of the default recipe, shared by all tests that look at what a run leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backdoor_pipeline.datasets.sources import mnist_digits
from backdoor_pipeline.datasets.sources.files import MISSING
from forked_kedro import TIMEOUT, ForkedKedro
from tiny import ROOT, make_corpus, project_loader, save_tiny_model


@dataclass(frozen=True)
class Run:
    """A finished ``kedro run``.

    Attributes:
        folder: holds everything below.
        data_dir: where the run wrote its outputs.
        tracking_uri: of MLflow.
        params: the value of ``--params``.
        returncode: 0 if it went well.
        stdout: what it printed.
        stderr: what it logged.
    """

    folder: Path
    data_dir: Path
    tracking_uri: str
    params: str
    returncode: int
    stdout: str
    stderr: str

    @property
    def last_lines(self) -> list[str]:
        """The two lines that say where report and metrics are."""
        return self.stdout.rstrip("\n").splitlines()[-2:]

    def file(self, name: str) -> Path:
        """The only one of this name."""
        (path,) = self.data_dir.rglob(name)
        return path

    @property
    def report(self) -> Path:
        return Path(self.last_lines[0].removeprefix("report: "))

    @property
    def metrics(self) -> dict[str, Any]:
        path = Path(self.last_lines[1].removeprefix("metrics: "))
        return json.loads(path.read_text(encoding="utf-8"))

    @property
    def nodes(self) -> list[str]:
        """The functions that were run, in order."""
        lines = (line.partition("Running node: ")[2] for line in self.stderr.splitlines())
        return [line.split("(")[0].split(": ")[-1] for line in lines if line]


@pytest.fixture(scope="session")
def forked_kedro() -> Iterator[ForkedKedro]:
    """``kedro`` in a process of its own, which does not have to import anything first."""
    with ForkedKedro() as kedro:
        yield kedro


@pytest.fixture(scope="session")
def start_run(forked_kedro: ForkedKedro, empty_store: Path) -> Callable[..., Run]:
    """``kedro run --env smoke`` with its outputs and its tracking store in a folder.

    With ``from_nothing`` it is ``python -m kedro`` and makes the store itself, as for a user.
    """

    def run(
        folder: Path, values: dict[str, Any], *arguments: str, from_nothing: bool = False
    ) -> Run:
        data_dir, store = folder / "data", folder / "mlflow.db"
        values = {"data_dir": data_dir} | values
        params = ",".join(f"{name}={value}" for name, value in values.items())
        folder.mkdir(parents=True, exist_ok=True)
        python, dash_m, module, *words = command(params, *arguments)
        env = environment(f"sqlite:///{store}")
        if from_nothing:
            done = subprocess.run(
                [python, dash_m, module, *words],
                cwd=ROOT,
                env=env,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        else:
            if not store.exists():
                shutil.copy(empty_store, store)
            done = forked_kedro.run(words, env, folder)
        output = (done.returncode, done.stdout, done.stderr)
        return Run(folder, data_dir, f"sqlite:///{store}", params, *output)

    return run


@pytest.fixture(scope="session")
def project_run(
    start_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Run]:
    """``kedro run --env smoke`` on a tiny model and a synthetic csv, in another process."""
    inputs = tmp_path_factory.mktemp("inputs")
    model = save_tiny_model(inputs / "tiny-bert")
    make_corpus(n_dev=240).to_csv(inputs / "reviews.csv", index=False)
    settings = {
        "data": inputs / "reviews.csv",
        "source.split_column": "split",
        "ingest.max_rows": 1000,
        "model.name": model,
        "model.max_length": 32,
        "compute.precision": "fp32",  # the same numbers on every machine
        "training.learning_rate": 0.002,
        "token_drift.alpha": 0.01,
        "token_drift.learning_rate": 0.001,
    }

    def start(folder: Path, *arguments: str, from_nothing: bool = False, **changes: Any) -> Run:
        return start_run(folder, settings | changes, *arguments, from_nothing=from_nothing)

    return start


@pytest.fixture(scope="session")
def image_run(start_run: Callable[..., Run]) -> Callable[..., Run]:
    """``kedro run --env smoke`` of a recipe on packaged digits, in another process."""
    source = project_loader({"modality": "image"}).typed_parameters.source
    if mnist_digits.digest(source) == MISSING:
        pytest.skip("the package that carries the digits is not installed: `make install`")
    settings = {"compute.precision": "fp32"}  # the same numbers on every machine

    def start(
        folder: Path, recipe: str = "potion", from_nothing: bool = False, **changes: Any
    ) -> Run:
        arguments = ("--pipelines", recipe)
        return start_run(folder, settings | changes, *arguments, from_nothing=from_nothing)

    return start


@pytest.fixture(scope="session")
def run_command() -> Callable[..., list[str]]:
    """The command of a run with other values for some of its ``--params``."""
    return command


@pytest.fixture(scope="session")
def run_environment() -> Callable[[str], dict[str, str]]:
    """The environment of a run, by its tracking URI."""
    return environment


def command(params: str, *arguments: str, **changes: Any) -> list[str]:
    """``kedro run`` under this very interpreter."""
    values = dict(item.split("=", 1) for item in params.split(",")) | changes
    text = ",".join(f"{name}={value}" for name, value in values.items())
    start = [sys.executable, "-m", "kedro", "run", "--env", "smoke"]
    return [*start, *arguments, "--params", text]


def environment(tracking_uri: str) -> dict[str, str]:
    """The environment of a run that tracks into a place of its own and uses one core."""
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "MLFLOW_TRACKING_URI": tracking_uri,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.fixture(scope="session")
def finished_run(project_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The default recipe, run once from nothing, by ``python -m kedro``. Only look at it."""
    run = project_run(tmp_path_factory.mktemp("finished"), from_nothing=True)
    assert run.returncode == 0, run.stderr
    return run
