"""The project's commands: ``kedro run`` with one-line errors, and ``kedro benchmark``."""

from __future__ import annotations

import copy

import click
from kedro.framework.cli.project import run as kedro_run

from backdoor_pipeline.command_line import one_line_errors, read_params
from backdoor_pipeline.experiments.commands import benchmark
from backdoor_pipeline.hooks import HOOKS


@click.group(name="backdoor_pipeline")
def cli() -> None:
    """Commands of this project."""


def _option(option: click.Parameter) -> click.Parameter:
    if option.name != "params":
        return option
    ours = copy.copy(option)
    ours.callback = read_params
    return ours


def _run(**options: object) -> None:
    """As Kedro's own, but it ends with what the run has to tell its caller (see ``hooks``)."""
    kedro_run.callback(**options)  # type: ignore[misc]
    code = max(getattr(hook, "exit_code", 0) for hook in HOOKS)
    if code:
        click.get_current_context().exit(code)


cli.add_command(
    click.Command(
        name="run",
        params=[_option(option) for option in kedro_run.params],
        callback=one_line_errors(_run),
        help=kedro_run.help,
        context_settings=kedro_run.context_settings,
    )
)
cli.add_command(benchmark)
