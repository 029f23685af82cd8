"""A finished run as ``kedro viz`` and ``mlflow ui`` show it, in a headless Chromium."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from chromium import BINARIES, chromium, console_errors, wait_for  # noqa: F401  # a fixture
from tiny import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(not any(map(shutil.which, BINARIES)), reason="no chromium on this machine"),
]

STAGES = {
    "ingest_examples",
    "poison_train",
    "train_victim",
    "detect_token_drift",
    "unlearn_by_token_replacement",
    "evaluate_models",
    "build_report",
}
LAYERS = "raw primary model_input models suspects purified_models model_output reporting".split()
HARMLESS = (
    "fonts.googleapis.com",  # kedro-viz's font; without a network the system's own is used
    "users/current",  # MLflow asks who is logged in; a server without log-in has no such page
)
STARTING = 180  # seconds that a server may take on a busy machine


def free_port() -> int:
    """A port nobody listens on, below 49152: kedro-viz refuses the others."""
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        if port < 49152:
            return port


@contextmanager
def serving(command: list[str], environment: dict[str, str], log: Path) -> Iterator[str]:
    """The address of a server while it runs; ``{port}`` in ``command`` is a free one."""
    port = free_port()
    address = f"http://127.0.0.1:{port}/"

    def answers() -> bool:
        assert server.poll() is None, log.read_text()
        try:
            return urlopen(address, timeout=5).status == 200
        except (URLError, TimeoutError, ConnectionError):
            return False

    with log.open("w") as output:
        server = subprocess.Popen(
            [word.format(port=port) for word in command],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # both start processes of their own, which have to end too
        )
        try:
            wait_for(answers, STARTING)
            yield address
        finally:
            for name in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(server.pid, name)
                    server.wait(5)


@pytest.fixture(scope="module")
def viz(finished_run, run_environment, tmp_path_factory) -> Iterator[str]:
    """Kedro-viz on the project, with the parameters of the finished run."""
    pytest.importorskip("kedro_viz", reason="kedro-viz is not installed (extra `viz`)")
    command = [sys.executable, "-m", "kedro", "viz", "run", "--no-browser", "--port", "{port}"]
    command += ["--env", "smoke", "--params", finished_run.params]
    environment = run_environment(finished_run.tracking_uri)
    with serving(command, environment, tmp_path_factory.mktemp("viz") / "log.txt") as address:
        yield address


@pytest.fixture(scope="module")
def mlflow_ui(finished_run, run_environment, tmp_path_factory) -> Iterator[str]:
    """MLflow's own pages on the store of the finished run."""
    command = [sys.executable, "-m", "mlflow", "ui", "--port", "{port}", "--workers", "1"]
    command += ["--backend-store-uri", finished_run.tracking_uri]
    environment = run_environment(finished_run.tracking_uri)
    with serving(command, environment, tmp_path_factory.mktemp("ui") / "log.txt") as address:
        yield address


def new_errors(browser) -> list[str]:
    """What the console has called an error, but for what is known to be harmless."""
    return [e for e in console_errors(browser) if not any(known in e for known in HARMLESS)]


def texts(browser, selector: str) -> list[str]:
    """What stands in every element that fits."""
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector
    )


class TestKedroViz:
    def test_shows_every_stage_in_its_layer(self, viz, chromium) -> None:  # noqa: F811
        chromium.get(f"{viz}?expandAllPipelines=true")
        wait_for(lambda: set(texts(chromium, ".pipeline-node__text")) >= STAGES)
        assert texts(chromium, ".pipeline-layer-name") == LAYERS
        close = "css selector", ".feature-hints__close svg"  # of the tour for newcomers
        wait_for(lambda: chromium.find_elements(*close))
        chromium.find_element(*close).click()
        wait_for(lambda: not chromium.find_elements(*close))
        assert new_errors(chromium) == []

    def test_shows_what_the_run_has_made(self, viz, chromium) -> None:  # noqa: F811
        nodes = json.load(urlopen(f"{viz}api/main", timeout=60))["nodes"]
        ids = {node["name"]: node["id"] for node in nodes}
        seen = {
            "btu_calibrated.before_after_figure": ".pipeline-metadata .js-plotly-plot",
            "btu_calibrated.metrics": ".pipeline-metadata__preview-json",
            "confirmation_suspects": ".pipeline-metadata .preview-table",
        }
        for name, preview in seen.items():
            wanted = ids[name]
            chromium.get(f"{viz}?expandAllPipelines=true&pid=__default__&sid={wanted}")
            wait_for(lambda preview=preview: texts(chromium, preview))
        assert new_errors(chromium) == []


@pytest.fixture(scope="module")
def runs(finished_run):
    """Returns what stands in the store: experiment id and runs, the oldest first."""
    from mlflow import MlflowClient

    def read():
        client = MlflowClient(finished_run.tracking_uri)
        experiment = client.get_experiment_by_name("backdoor_pipeline").experiment_id
        return experiment, client.search_runs([experiment])[::-1]

    return read


@pytest.fixture(scope="module")
def page(mlflow_ui, runs) -> str:
    """The address of the run's page."""
    experiment, (run, *_) = runs()
    return f"{mlflow_ui}#/experiments/{experiment}/runs/{run.info.run_id}"


class TestMlflow:
    def test_shows_parameters_and_rates(self, page, chromium, finished_run) -> None:  # noqa: F811
        def text() -> str:
            return chromium.find_element("tag name", "body").text

        chromium.get(page)
        wait_for(lambda: "token_drift.alpha" in text())
        for model in ("victim", "purified", "reference"):
            for name in ("clean_accuracy", "attack_success_rate"):
                value = repr(finished_run.metrics[model][name]).removesuffix(".0")
                assert f"{model}.{name}\n{value}\n" in text()
        assert "poison.rate\n0.1\n" in text()
        assert "Finished" in text()
        assert new_errors(chromium) == []

    def test_draws_the_figures_and_the_report(self, page, chromium) -> None:  # noqa: F811
        for name, drawn in (("figures", ".js-plotly-plot"), ("report", "#verdict")):
            chromium.get("about:blank")
            chromium.get(f"{page}/artifacts/{name}.html")
            wait_for(lambda: chromium.find_elements("tag name", "iframe"))
            chromium.switch_to.frame(chromium.find_element("tag name", "iframe"))
            wait_for(lambda drawn=drawn: texts(chromium, drawn))
            chromium.switch_to.default_content()
        assert new_errors(chromium) == []

    def test_takes_a_run_as_a_server(
        self, mlflow_ui, finished_run, run_command, run_environment, runs
    ) -> None:
        command = run_command(finished_run.params)
        environment = run_environment(mlflow_ui)
        subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=300)
        first, *_, last = runs()[1]
        assert last.info.status == "FINISHED"
        assert last.data.tags["nodes_run"].startswith("0 of ")
        results, expected = (
            {k: v for k, v in run.data.metrics.items() if not k.startswith("cost.")}
            for run in (last, first)
        )
        assert results == expected  # costs may have been measured anew by a fresh run in between
