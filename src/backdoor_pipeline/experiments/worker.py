"""The processes of a grid: one for each task, whose record is the last thing it writes.

    python -m backdoor_pipeline.experiments.worker FOLDER

serves the grid in FOLDER: it imports what every task needs, once, and then forks a process for each
job (a JSON file, see ``process``) that is named on a line of its standard input. The answer is the
exit status. Server and task end with the process that has started them: nothing goes on unseen.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backdoor_pipeline.errors import InputError

logger = logging.getLogger(__name__)
ORPHANED = 3  # exit status of a task whose parent is gone
PRELOADED = (
    "backdoor_pipeline.settings",  # first: it switches telemetry off
    "backdoor_pipeline.pipeline_registry",
    "backdoor_pipeline.datasets.models",
    "backdoor_pipeline.datasets.source",
    "backdoor_pipeline.experiments.records",
    "kedro.framework.context",
    "kedro.framework.startup",
    "kedro_datasets._typing",
    "accelerate",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "pandera.backends.pandas.builtin_checks",
    "pandera.pandas",
    "plotly.graph_objects",
    "plotly.io",
    "plotly.offline",  # and IPython with it
    "pyarrow.parquet",
    "scipy.stats",
    "sklearn.metrics",
    "sqlalchemy.dialects.sqlite",
    "statsmodels.stats.proportion",
    "transformers.convert_slow_tokenizer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
)
"""What most tasks import."""
FORKS = sys.platform == "linux"
"""Elsewhere a server runs one job and ends: macOS's own libraries do not survive a fork."""


def serve() -> None:
    """Run every job that the standard input names, one after the other, until it closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed must not pass for an answer
    _end_with_the_parent()
    preload()
    for line in iter(sys.stdin.readline, ""):
        job = json.loads(Path(line.rstrip("\n")).read_text(encoding="utf-8"))
        status = _fork(job) if FORKS else _run_logged(job)
        answers.write(f"{status}\n")
        answers.flush()
        if not FORKS:
            return


def preload(names: Sequence[str] = PRELOADED) -> None:
    """Import these modules and what figures need; no thread computes, so that a fork may follow."""
    gc.disable()  # nothing that is imported is garbage
    for name in names:
        importlib.import_module(name)
    _draw_a_figure()
    gc.freeze()  # else each fork's collections would copy and walk all that it shares
    gc.enable()


def _draw_a_figure() -> None:
    """Plotly imports hundreds of modules only once it draws."""
    from plotly.io import from_json
    from plotly.subplots import make_subplots

    from backdoor_pipeline.presentation import styled

    figure = styled(make_subplots(), "").add_scatter(x=[0], y=[0]).add_bar(x=[0], y=[0])
    from_json(figure.to_json())


def _fork(job: Mapping[str, Any]) -> int:
    """Exit status of a job in a process of its own; negative: the signal that has killed it."""
    child = os.fork()
    if child == 0:
        _end_with_the_parent()
        os._exit(_run_logged(job))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _run_logged(job: Mapping[str, Any]) -> int:
    """Exit status of a job in this process; everything printed goes to its log."""
    with open(os.devnull, "rb") as nothing, open(job["log"], "ab") as log:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    status = 1
    try:
        status = run_job(job)
    except BaseException:
        logger.exception("the task has ended without a record")
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _end_with_the_parent() -> None:
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(ORPHANED)

    threading.Thread(target=watch, daemon=True).start()


def run_job(job: Mapping[str, Any]) -> int:
    """Run a job and write its record; 0 if it went well."""
    from backdoor_pipeline.experiments.records import DONE, FAILED, Records, machine

    os.environ |= job["environment"]
    start = time.time()
    try:
        outcome = {"status": DONE, "error": None, **run(job)}
    except Exception as error:
        logger.exception("the task failed")
        outcome = {"status": FAILED, "error": _words(error)}
    spent = {"started": start, "seconds": time.time() - start}
    about = {**job["about"], "job": job["id"], "threads": _threads(), "machine": machine()}
    records = Records(Path(job["records"]))
    if outcome["status"] == DONE or records.status(about["task"]) != DONE:
        records.write(about["task"], {**about, **outcome, **spent})
    return 0 if outcome["status"] == DONE else 1


def run(job: Mapping[str, Any]) -> dict[str, Any]:
    """What a job's Kedro run has to say: the nodes it ran, and of a whole cell its metrics.

    A tracking store that cannot be reached costs the record in MLflow, not the run.
    """
    from backdoor_pipeline.hooks.lock import LockHooks
    from backdoor_pipeline.hooks.mlflow_run import StoreError

    LockHooks.waits = True
    try:
        return _kedro_run(job, job["tracking"])
    except StoreError as error:
        logger.warning("%s", error)
        os.environ["BACKDOOR_TRACKING"] = "false"
        return _kedro_run(job, {})


def _kedro_run(job: Mapping[str, Any], tracking: Mapping[str, Any]) -> dict[str, Any]:
    from kedro.framework.project import pipelines
    from kedro.framework.startup import bootstrap_project

    from backdoor_pipeline.hooks import HOOKS
    from backdoor_pipeline.hooks.costs import CostHooks
    from backdoor_pipeline.hooks.run_facts import git_state, output_folder
    from backdoor_pipeline.session import ProjectSession

    project, about = Path(job["project"]), job["about"]
    recipe, whole_cell = about["pipeline"], about["finishes_cell"]
    settings = {**about["settings"], "tracking": dict(tracking)}
    bootstrap_project(project)
    session: Any = ProjectSession.create(project, env=job["env"], runtime_params=settings)
    with session:
        session.prepare([recipe])
        context = session.load_context()
        loader: Any = context.config_loader
        _check_keys(loader.keys_of_stages, about["keys"])
        data_dir = project / loader.typed_parameters.data_dir
        chosen = None
        if not whole_cell:
            catalog = context.catalog
            keys = {loader.keys_of_stages[stage] for stage in about["stages"]}
            outputs = pipelines[recipe].all_outputs()
            chosen = [n for n in sorted(outputs) if output_folder(catalog.get(n), data_dir) in keys]
        session.run(pipeline_names=[recipe], to_outputs=chosen)
        (costs,) = (hook for hook in HOOKS if isinstance(hook, CostHooks))
        outcome = {"nodes": dict(costs.spent), **git_state(project)}
        if whole_cell:
            catalog = context.catalog  # not before the run: Kedro would check all pipelines' types
            predictions: Any = catalog.get(f"{recipe}.predictions")
            outcome["metrics"] = catalog.load(f"{recipe}.metrics")
            outcome["predictions"] = str(Path(predictions._filepath).relative_to(data_dir))
        return outcome


def _check_keys(found: Mapping[str, str], planned: Mapping[str, str]) -> None:
    """Nothing, if this process computes what the grid has planned."""
    for stage, key in planned.items():
        if found[stage] != key:
            raise InputError(
                f"this task would write {found[stage]} instead of {key}: the data, the parameters "
                "or the package have changed since the grid was started, or differ on this host; "
                "run the grid again"
            )


def _words(error: Exception) -> str:
    """What to tell the user of an error."""
    from backdoor_pipeline.command_line import find_input_error

    return find_input_error(error) or f"{type(error).__name__}: {error}"


def _threads() -> int:
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else 1


if __name__ == "__main__":
    serve()
