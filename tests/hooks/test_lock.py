"""Two runs with equal settings at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.hooks.lock import LockHooks
from tiny import ROOT, project_loader


def pipeline_of(*outputs: str) -> Pipeline:
    return Pipeline([Node(lambda: None, None, name, name=f"make_{name}") for name in outputs])


@pytest.fixture
def make_hooks(tmp_path: Path):
    """The hook of a session of its own."""

    def make(**params) -> LockHooks:
        loader = project_loader({"data_dir": str(tmp_path / "data"), **params})
        hooks = LockHooks()
        hooks.after_context_created(SimpleNamespace(config_loader=loader, project_path=tmp_path))
        return hooks

    return make


def start(hooks: LockHooks, *outputs: str) -> None:
    catalog = DataCatalog.from_config(hooks._context.config_loader["catalog"])
    hooks.before_pipeline_run(pipeline_of(*outputs or ["btu.report"]), catalog)


def test_the_second_run_stops_with_a_clear_error(make_hooks) -> None:
    first = make_hooks()
    start(first)
    with pytest.raises(InputError, match=r"another run with the same settings.*such as seed"):
        start(make_hooks())


@pytest.mark.parametrize("end", ["after_pipeline_run", "on_pipeline_error"])
def test_the_lock_is_free_when_the_run_ends(make_hooks, end) -> None:
    first = make_hooks()
    start(first)
    getattr(first, end)()
    start(make_hooks())


def test_other_settings_and_other_recipes_run_beside_it(make_hooks) -> None:
    first, second, third = make_hooks(), make_hooks(seed=1), make_hooks()
    start(first)
    start(second)
    start(third, "association.report")


def test_stages_on_their_own_are_locked_too(make_hooks) -> None:
    first = make_hooks()
    start(first, "examples")
    with pytest.raises(InputError, match="another run"):
        start(make_hooks(), "examples", "poisoned_train")
    start(make_hooks(), "poisoned_train")


def test_recipes_that_need_the_same_victim_do_not_both_train_it(tmp_path, make_hooks) -> None:
    first = make_hooks()
    start(first, "victim_model", "btu.report")
    with pytest.raises(InputError, match="another run"):
        start(make_hooks(), "victim_model", "association.report")
    catalog = make_hooks()._context.config_loader["catalog"]
    Path(catalog["victim_model"]["filepath"]).mkdir(parents=True)  # now it is there
    first.after_pipeline_run()
    start(first, "victim_model", "btu.report")
    start(make_hooks(), "victim_model", "association.report")
    with pytest.raises(InputError, match="another run"):
        start(make_hooks(fresh=True), "victim_model", "btu.report")


def test_two_detectors_of_one_data_set_run_beside_each_other(make_hooks) -> None:
    catalog = make_hooks()._context.config_loader["catalog"]
    Path(catalog["victim_model"]["filepath"]).mkdir(parents=True)
    first, second = make_hooks(), make_hooks()
    start(first, "victim_model", "token_drift_suspects")
    start(second, "victim_model", "token_association_suspects")
    with pytest.raises(InputError, match="another run"):
        start(make_hooks(), "token_association_suspects", "association.report")


def test_who_waits_goes_on_when_the_other_has_ended(make_hooks, monkeypatch) -> None:
    monkeypatch.setattr(LockHooks, "waits", True)
    first, second = make_hooks(), make_hooks()
    start(first)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(start, second)
        time.sleep(0.5)
        assert not waiting.done()
        first.after_pipeline_run()
        waiting.result(timeout=10)


def test_who_gets_one_of_two_locks_keeps_none(make_hooks) -> None:
    first, second = make_hooks(), make_hooks()
    start(first, "btu.report")
    with pytest.raises(InputError, match="another run"):
        start(second, "association.report", "btu.report")
    start(make_hooks(), "association.report")


def test_a_folder_that_cannot_be_written(tmp_path, make_hooks) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(InputError, match=r"cannot write to .*data_dir"):
        start(make_hooks())


def test_a_killed_run_frees_its_lock(tmp_path, make_hooks) -> None:
    program = f"""
import sys, time
sys.path[:0] = [{str(ROOT / "tests")!r}, {str(ROOT / "src")!r}]
from types import SimpleNamespace
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline
from tiny import project_loader
from backdoor_pipeline.hooks.lock import LockHooks
hooks = LockHooks()
loader = project_loader({{"data_dir": {str(tmp_path / "data")!r}}})
hooks.after_context_created(SimpleNamespace(config_loader=loader, project_path={str(tmp_path)!r}))
catalog = DataCatalog.from_config(loader["catalog"])
hooks.before_pipeline_run(Pipeline([Node(lambda: None, None, "btu.report", name="n")]), catalog)
sys.stdout.write("locked\\n")
sys.stdout.flush()
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ.copy()
    ) as other:
        try:
            assert other.stdout.readline() == "locked\n"
            with pytest.raises(InputError, match="another run"):
                start(make_hooks())
        finally:
            other.send_signal(signal.SIGKILL)
    start(make_hooks())
