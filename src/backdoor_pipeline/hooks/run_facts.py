"""What is worth knowing about a run before it starts: its parameters, and where it comes from."""

from __future__ import annotations

import getpass
import shlex
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backdoor_pipeline import __version__
from backdoor_pipeline.formatting import flat
from backdoor_pipeline.keys import data_digest
from backdoor_pipeline.parameter_group import ParameterGroup
from backdoor_pipeline.recipes import ALL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline

    from backdoor_pipeline.parameters import Parameters

READ_BY_THE_CATALOG = {
    "raw_source": "source",
    "raw_clean_source": "clean_source",
    "base_model": "model",
    "base_tokenizer": "model",
}
OPTIONS = {
    "pipeline_names": "--pipelines",
    "env": "--env",
    "tags": "--tags",
    "from_nodes": "--from-nodes",
    "to_nodes": "--to-nodes",
    "node_names": "--nodes",
    "from_inputs": "--from-inputs",
    "to_outputs": "--to-outputs",
    "load_versions": "--load-versions",
    "namespaces": "--namespaces",
    "runtime_params": "--params",
}


def used_parameters(pipeline: Pipeline, parameters: Parameters) -> dict[str, Any]:
    """The parameter groups that the nodes and the data sets of ``pipeline`` read, flat.

    Of a group with alternatives, such as the attacks, only the chosen one: its ``settings``.
    """
    inputs = pipeline.inputs()
    groups = {name.split(":")[1].split(".")[0] for name in inputs if name.startswith("params:")}
    groups |= {group for name, group in READ_BY_THE_CATALOG.items() if name in inputs}
    values = {name: getattr(parameters, name) for name in sorted(groups)}
    return flat(
        {k: v.in_force() if isinstance(v, ParameterGroup) else v for k, v in values.items()}
    )


def recipe_of(name: str) -> str | None:
    """The recipe that a data set belongs to; None if several share it."""
    recipe = name.partition(".")[0]
    return recipe if recipe in ALL else None


def recipes_of(pipeline: Pipeline) -> list[str]:
    """The recipes that ``pipeline`` runs, whole or in part."""
    return sorted(filter(None, set(map(recipe_of, pipeline.all_outputs()))))


def origin(
    pipeline: Pipeline, parameters: Parameters, run_params: Mapping[str, Any], project: Path
) -> dict[str, Any]:
    """Tags that say what was run, on what, by whom and from which state of the code."""
    tags = {
        "recipe": ",".join(recipes_of(pipeline)) or "none",
        "dataset": parameters.source.data or parameters.source.dataset,
        "attack": parameters.poison.attack if parameters.poison.rate else "none",
        "seed": parameters.seed,
        "data_digest": data_digest(parameters.source),
        "version": __version__,
        "env": run_params.get("env") or "base",
        "command": kedro_command(run_params),
        "host": socket.gethostname(),
        "mlflow.source.name": "kedro run",
        **git_state(project),
    }
    with suppress(OSError, KeyError):  # a container may have no user of that number
        tags["mlflow.user"] = getpass.getuser()
    return tags


def kedro_command(run_params: Mapping[str, Any]) -> str:
    """The ``kedro run`` that does the same again."""
    words = ["kedro", "run"]
    for name, option in OPTIONS.items():
        value = run_params.get(name)
        if isinstance(value, dict):
            separator = ":" if name == "load_versions" else "="
            value = [f"{key}{separator}{setting}" for key, setting in flat(value).items()]
        if value:
            words += [option, value if isinstance(value, str) else ",".join(map(str, value))]
    return shlex.join(words)


def output_folder(dataset: Any, data_dir: Path) -> str | None:
    """The key under which a data set is kept; None if it is not in a file below ``data_dir``."""
    path = getattr(dataset, "_filepath", None)
    return Path(path).relative_to(data_dir).parts[1] if path else None


def output_folders(pipeline: Pipeline, catalog: DataCatalog, data_dir: Path) -> list[str]:
    """The folders that say which run this is: those of its recipes, or else all it writes to."""
    folders = {name: output_folder(catalog.get(name), data_dir) for name in pipeline.all_outputs()}
    kept = {name: folder for name, folder in folders.items() if folder}
    own = {folder for name, folder in kept.items() if recipe_of(name)}
    return sorted(own or set(kept.values()))


def git_state(project: Path) -> dict[str, Any]:
    """The commit and whether files differ from it; nothing outside a git checkout."""
    commit, changes = (
        _git(project, *command) for command in (("rev-parse", "HEAD"), ("status", "--porcelain"))
    )
    if not commit:
        return {}
    return {"git_commit": commit, "git_dirty": bool(changes), "mlflow.source.git.commit": commit}


def _git(project: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(project), *arguments],
            capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
