"""The first contact with a tracking store, and the limits of MLflow."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.hooks.mlflow_run import check_settings, open_run, without_secrets
from backdoor_pipeline.parameters import TrackingParams
from tiny import ROOT

NEW = TrackingParams(run_name=None, run_id=None, parent_run_id=None, register_model=False)


def settings(uri: object, **changes: object):
    raw = {"enabled": "true", "experiment": "e", "registered_model": "m", "tracking_uri": str(uri)}
    return check_settings(raw | changes)


@pytest.fixture
def run(project):
    """A run in a store of its own."""
    return open_run(settings(project.uri), NEW, "a run", {"outputs": "x"}, {})


class TestLimits:
    def test_many_and_long_parameters(self, run, project) -> None:
        run.log_parameters({f"p{i}": "x" * 7000 if i == 0 else i for i in range(250)})
        params = project.client.get_run(run.id).data.params
        assert len(params) == 250
        assert len(params["p0"]) == 6000

    def test_many_metrics(self, run, project) -> None:
        run.log_metrics({f"m{i}": i for i in range(2100)})
        assert len(project.client.get_run(run.id).data.metrics) == 2100

    def test_a_long_tag(self, run, project) -> None:
        run.set_tags({"error": "e" * 20_000})
        assert len(project.client.get_run(run.id).data.tags["error"]) == 8000

    @pytest.mark.parametrize("n_steps", [0, 1, 999, 1000, 1001, 25_000])
    def test_long_curves_keep_their_ends(self, run, project, n_steps) -> None:
        steps = list(range(1, n_steps + 1))
        run.log_curve("loss", steps, [1 / step for step in steps])
        points = project.client.get_metric_history(run.id, "loss")
        assert len(points) <= 1001
        assert [p.step for p in points][:1] == steps[:1]
        assert [p.step for p in points][-1:] == steps[-1:]
        assert all(p.value == 1 / p.step for p in points)
        assert n_steps > 1000 or len(points) == n_steps


class TestStoresThatCannotBeUsed:
    def refusal(self, uri: object) -> str:
        start = time.monotonic()
        with pytest.raises(InputError) as error:
            open_run(settings(uri), NEW, "a run", {"outputs": "x"}, {})
        assert time.monotonic() - start < 60  # a bound on hanging: it takes a second or two
        assert "BACKDOOR_TRACKING=false" in str(error.value)
        return str(error.value)

    def test_nobody_listens(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        message = self.refusal(f"http://me:hunter2@127.0.0.1:{port}")
        assert f"http://…@127.0.0.1:{port}: Connection refused" in message
        assert "hunter2" not in message

    def test_somebody_listens_who_never_answers(self, monkeypatch) -> None:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # the user's own patience counts
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            assert "timed out" in self.refusal(f"http://127.0.0.1:{silent.getsockname()[1]}")

    def test_a_folder_of_the_old_kind(self, tmp_path) -> None:
        assert "sqlite" in self.refusal(tmp_path / "mlruns")

    def test_a_file_that_is_no_database(self, tmp_path) -> None:
        (tmp_path / "mlflow.db").write_text("These are my notes.\n" * 100)
        assert "not a database" in self.refusal(f"sqlite:///{tmp_path / 'mlflow.db'}")

    def test_a_place_that_cannot_hold_a_file(self, tmp_path) -> None:
        (tmp_path / "notes.txt").touch()
        self.refusal(f"sqlite:///{tmp_path / 'notes.txt' / 'mlflow.db'}")

    def test_an_unknown_kind(self) -> None:
        self.refusal("carrier-pigeon://loft")

    def test_a_deleted_experiment(self, project) -> None:
        experiment = project.client.create_experiment("e")
        project.client.delete_experiment(experiment)
        assert "active" in self.refusal(project.uri)


def test_the_patience_of_mlflow_is_given_back(project, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    open_run(settings(project.uri), NEW, "a run", {"outputs": "x"}, {})
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


@pytest.mark.parametrize(
    ("name", "value"), [("enabled", "perhaps"), ("tracking_uri", ""), ("experimnet", "x")]
)
def test_bad_settings(name, value) -> None:
    with pytest.raises(InputError, match=rf"mlflow\.yml: {name} is '{value}'"):
        settings("sqlite:///x.db", **{name: value})


@pytest.mark.parametrize("value", ["false", "0", "off", "no", "False"])
def test_ways_to_say_no(value) -> None:
    assert not settings("sqlite:///x.db", enabled=value).enabled


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:pw@db/mlflow", "postgresql://…@db/mlflow"),
        ("a https://t0ken@host/x and http://h", "a https://…@host/x and http://h"),
        ("https://host/x?token=abc&page=2", "https://host/x?token=…&page=2"),
        ("token_drift.alpha=0.1,excluded_tokens=@", "token_drift.alpha=0.1,excluded_tokens=@"),
        ("a mail to me@host", "a mail to me@host"),
    ],
)
def test_secrets_are_left_out(text, shown) -> None:
    assert without_secrets(text) == shown


@pytest.mark.slow
@pytest.mark.distributed
def test_several_processes_may_make_the_store(tmp_path) -> None:
    code = f"""
import sys
sys.path[:0] = [{str(ROOT / "src")!r}]
from backdoor_pipeline.hooks.mlflow_run import check_settings, open_run
from backdoor_pipeline.parameters import TrackingParams
new = TrackingParams(run_name=None, run_id=None, parent_run_id=None, register_model=False)
raw = dict(enabled=True, experiment="e", registered_model="m",
           tracking_uri="sqlite:///{tmp_path}/new/mlflow.db")
run = open_run(check_settings(raw), new, "a run", {{"outputs": sys.argv[1]}}, {{}})
run.log_metrics({{"x": 1}})
"""
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(i)], stderr=subprocess.PIPE, text=True)
        for i in range(3)
    ]
    errors = [worker.communicate(timeout=300)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], errors

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/new/mlflow.db")
    experiment = client.get_experiment_by_name("e")
    assert len(client.search_runs([experiment.experiment_id])) == 3
