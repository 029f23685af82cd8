"""A run that is killed anywhere goes on where it was, to the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from kill_and_resume import check_files, kill_in_each_node, without_cost

pytestmark = pytest.mark.slow


def test_killed_in_each_node_in_turn(finished_run, run_command, run_environment, tmp_path) -> None:
    _, _, _, *arguments = run_command(finished_run.params, data_dir=tmp_path / "data")
    killed, metrics = kill_in_each_node(
        arguments,
        run_environment(f"sqlite:///{tmp_path / 'mlflow.db'}"),
    )
    assert len(killed) == len(finished_run.nodes)
    assert without_cost(metrics) == without_cost(finished_run.metrics)
    assert check_files(tmp_path / "data")
    made, undisturbed = names(tmp_path / "data"), names(finished_run.data_dir)
    folders = {entry[:2] for entry in made}
    assert made == {entry for entry in undisturbed if entry[:2] in folders}


def names(folder: Path) -> set[tuple[str, ...]]:
    """Layer, key and name of every file but the locks, whatever its version."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {(*path.parts[:2], path.name) for path in paths if path.parts[0] != ".locks"}
