"""The project's command line: ``kedro run`` with one-line errors."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.io.core import DatasetError

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.parameters import parse


@click.group(name="backdoor_pipeline")
def cli() -> None:
    """Commands of this project."""


def one_line_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """``command``, ending with the message alone where the input is to blame."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except Exception as error:
            blamed = find_input_error(error)
            if blamed is None:
                raise
            raise click.ClickException(blamed) from error

    return wrapped


def find_input_error(error: BaseException) -> str | None:
    """The message for the user, if ``error`` was caused by the input; None if it is a defect."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return str(error) if isinstance(error, DatasetError) else None


def read_params(context: click.Context, option: click.Parameter, value: Any) -> dict[str, Any]:
    """The parameters of ``--params``, as this project writes them."""
    if isinstance(value, dict):
        return value
    try:
        return parse(value or "")
    except InputError as error:
        raise click.ClickException(str(error)) from None


def _option(option: click.Parameter) -> click.Parameter:
    if option.name != "params":
        return option
    ours = copy.copy(option)
    ours.callback = read_params
    return ours


cli.add_command(
    click.Command(
        name="run",
        params=[_option(option) for option in kedro_run.params],
        callback=one_line_errors(kedro_run.callback),  # type: ignore[arg-type]
        help=kedro_run.help,
        context_settings=kedro_run.context_settings,
    )
)
