"""``kedro benchmark``: run a grid, see how it stands, make its tables, remove its outputs."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backdoor_pipeline.command_line import one_line_errors, read_params
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.formatting import counted, duration, percent
from backdoor_pipeline.formatting import size as formatted_size

if TYPE_CHECKING:
    from backdoor_pipeline.experiments.benchmark import Benchmark
    from backdoor_pipeline.experiments.estimate import Estimate
    from backdoor_pipeline.experiments.executors import Executor
    from backdoor_pipeline.experiments.process import Outcome
    from backdoor_pipeline.experiments.tasks import Task


@click.group()
def benchmark() -> None:
    """Whole tables from one grid file: run, status, table, clean."""


def on_a_grid(function: Callable[..., None]) -> click.Command:
    """A command of ``kedro benchmark``, whose function gets the opened grid first."""

    @benchmark.command()
    @click.argument("grid")
    @click.option("--params", default="", callback=read_params, help="For all cells, as in `run`.")
    @one_line_errors
    @functools.wraps(function)  # with the options that it has already
    def opened(grid: str, params: dict[str, Any], **options: Any) -> None:
        from kedro.framework.startup import bootstrap_project
        from kedro.utils import find_kedro_project

        from backdoor_pipeline.experiments.benchmark import Benchmark

        project = find_kedro_project(Path.cwd())
        if project is None:
            raise InputError(f"{Path.cwd()} is not in a Kedro project; change to its folder")
        file = Path(grid).absolute()
        os.chdir(project)  # as the cells do: relative paths mean the same everywhere
        bootstrap_project(project)
        function(Benchmark.open(project, str(file) if file.is_file() else grid, params), **options)

    return opened


@on_a_grid
@click.option("--executor", type=click.Choice(["serial", "ray"]), default="serial")
@click.option("--cpus", type=click.IntRange(1), help="Of a cell. Serial: all cores; Ray: one.")
@click.option("--gpus", type=click.FloatRange(0), default=0.0, help="Share of a GPU, for Ray.")
@click.option("--address", help="Of a running Ray cluster; without it, Ray uses this host.")
@click.option("--retry-failed", is_flag=True, help="Run failed cells again.")
@click.option("--dry-run", is_flag=True, help="Say what would run, and for how long.")
def run(
    grid: Benchmark,
    executor: str,
    cpus: int | None,
    gpus: float,
    address: str | None,
    retry_failed: bool,
    dry_run: bool,
) -> None:
    """Run what has not ended yet of the cells of GRID, then make its tables."""
    from backdoor_pipeline.experiments.estimate import Estimate
    from backdoor_pipeline.experiments.executors import OnRay, Serial

    on_ray, cores = executor == "ray", os.cpu_count() or 1
    if (gpus or address) and not on_ray:
        raise click.UsageError("--gpus and --address are for --executor ray")
    if on_ray and grid.num_workers > 1:
        raise InputError(
            f"training.num_workers is {grid.num_workers}: such a cell takes the whole cluster; use "
            "--executor serial, with RAY_ADDRESS if the cluster runs elsewhere"
        )
    threads = cpus or (1 if on_ray else cores)
    chosen: Executor = OnRay(threads, gpus, address) if on_ray else Serial()
    cells = grid.to_run(retry_failed)
    tasks = grid.tasks({cell.id for cell in cells})
    if dry_run:
        _show_plan(tasks, Estimate(grid.data_dir), max(1, cores // threads) if on_ray else 1)
    trained = sum("victim" in task.stages for task in tasks)
    click.echo(
        f"{grid.name}: {len(cells)} of {counted(len(grid.cells), 'cell')} to run, "
        f"in {len(tasks)} processes; {counted(trained, 'victim')} to train"
    )
    if dry_run:
        return
    start, n_failed = time.monotonic(), 0
    for n, (task, outcome) in enumerate(grid.run(chosen, threads, retry_failed), start=1):
        n_failed += outcome.status == "failed"
        click.echo(f"[{n}/{max(n, len(tasks))}] {_line(grid, task, outcome)}")
    click.echo(f"{duration(time.monotonic() - start)}; tables in {grid.folder}")
    _say_what_failed(grid)
    if n_failed:
        raise SystemExit(1)


def _show_plan(tasks: Sequence[Task], estimate: Estimate, at_once: int) -> None:
    for task in tasks:
        what = str(task.cell) if task.finishes else f"shared by {task.users}: {_shared(task)}"
        click.echo(f"{duration(estimate.of_task(task)):>12}  {what}")
    seconds, unknown = estimate.of_all(tasks, at_once)
    if len(unknown) < len(tasks):
        click.echo(f"about {duration(seconds)}, {at_once} at a time, by what earlier runs took")
    if unknown:
        click.echo(f"{counted(len(unknown), 'task')} not counted: nothing like it has run here")


def _shared(task: Task) -> str:
    return f"{' + '.join(task.stages)} ({task.name.rpartition('-')[0]})"


def _line(grid: Benchmark, task: Task, outcome: Outcome) -> str:
    """How a task has ended."""
    what = str(task.cell) if task.finishes else _shared(task)
    if outcome.error:
        return f"FAILED  {what}: {outcome.error}"
    line = f"{duration(outcome.seconds):>11}  {what}"
    if not task.finishes:
        return line
    metrics = (grid.records.read(task.name) or {})["metrics"]
    victim, purified = metrics["victim"], metrics["purified"]
    rates = [
        f"{name} {percent(victim[rate])} → {percent(purified[rate])}"
        for name, rate in (("CA", "clean_accuracy"), ("ASR", "attack_success_rate"))
    ]
    return f"{line}: {', '.join(rates)}{'' if metrics['valid'] else ' (attack not implanted)'}"


@on_a_grid
def status(grid: Benchmark) -> None:
    """How many cells of GRID have ended, and what failed."""
    counts = grid.table()["status"].value_counts()
    words = [f"{counts.get(name, 0)} {name}" for name in ("done", "failed", "missing")]
    click.echo(f"{grid.name}: {counted(len(grid.cells), 'cell')}, {', '.join(words)}")
    if grid.is_running():
        click.echo("a run is under way")
    _say_what_failed(grid)


def _say_what_failed(grid: Benchmark) -> None:
    from backdoor_pipeline.experiments.leaderboard import first_line

    table = grid.table()
    failed = table["status"] == "failed"
    for cell, error, has_failed in zip(grid.cells, table["error"], failed, strict=True):
        if has_failed:
            click.echo(f"failed: {cell}: {first_line(error)} (log: {grid.records.log(cell.id)})")
    if failed.any():
        click.echo("`--retry-failed` runs these again")


@on_a_grid
@click.option("--to", type=click.Path(path_type=Path, resolve_path=True), help="Folder for them.")
@click.option(
    "--into",
    type=click.Path(path_type=Path, exists=True, resolve_path=True),
    help="Markdown file: what stands between <!-- GRID --> and <!-- /GRID --> is replaced.",
)
def table(grid: Benchmark, to: Path | None, into: Path | None) -> None:
    """Make the tables of GRID from its records: csv, markdown, LaTeX, HTML, figures."""
    from backdoor_pipeline.experiments.records import MISSING

    if all(grid.records.status(cell.id) == MISSING for cell in grid.cells):
        raise InputError(
            f"no cell of {grid.name} has ended in {grid.folder}; run the grid first, or let "
            "--params data_dir=… say where it ran"
        )
    files = grid.write_tables(to or grid.folder)
    for board in (path for path in files if path.suffix == ".md"):
        text = board.read_text(encoding="utf-8")
        if into is not None:
            replace_section(into, grid.name, text)
        click.echo(text)
    for path in files:
        click.echo(path)


def replace_section(path: Path, name: str, text: str) -> None:
    """Put ``text`` between the comments ``<!-- name -->`` and ``<!-- /name -->`` of a file.

    Raises:
        InputError: The file has no such section.
    """
    before, start, rest = path.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not (start and end):
        raise InputError(
            f"{path} has no section `{start or f'<!-- {name} -->'}` … `<!-- /{name} -->`"
        )
    path.write_text(f"{before}{start}{text.strip()}\n{end}{after}", encoding="utf-8")


@on_a_grid
@click.option("--models", is_flag=True, help="Only the trained models; tables can still be made.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def clean(grid: Benchmark, models: bool, yes: bool) -> None:
    """Remove what GRID has made, but for what another grid uses too."""
    from backdoor_pipeline.experiments.outputs import size

    def agreed(folders: list[Path]) -> bool:
        total = formatted_size(sum(map(size, folders)))
        click.echo(f"{counted(len(folders), 'folder')} below {grid.data_dir}, {total}")
        return bool(folders) and (yes or click.confirm("Remove them?"))

    for folder in grid.clean(models, agreed):
        click.echo(f"{folder} stays: a run is writing there")
