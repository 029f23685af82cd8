"""The commands: what they refuse, and the section of a document that a table replaces."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from backdoor_pipeline.cli import cli
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.experiments.benchmark import Benchmark
from backdoor_pipeline.experiments.commands import replace_section
from backdoor_pipeline.experiments.executors import Serial
from backdoor_pipeline.experiments.records import machine
from tiny import ROOT

DOCUMENT = "before\n<!-- text -->\nold\n<!-- /text -->\nafter\n"


def test_a_table_replaces_its_section_alone(tmp_path) -> None:
    path = tmp_path / "README.md"
    path.write_text(DOCUMENT)
    replace_section(path, "text", "| new |\n")
    assert path.read_text() == "before\n<!-- text -->\n| new |\n<!-- /text -->\nafter\n"
    replace_section(path, "text", "newer")
    assert path.read_text() == "before\n<!-- text -->\nnewer\n<!-- /text -->\nafter\n"


def test_a_document_without_the_section_stays_as_it_is(tmp_path) -> None:
    path = tmp_path / "README.md"
    path.write_text(DOCUMENT)
    with pytest.raises(InputError, match="has no section `<!-- smoke -->"):
        replace_section(path, "smoke", "x")
    assert path.read_text() == DOCUMENT


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "smokey"], "there is no grid file smokey; did you mean 'smoke'?"),
        (["run", "smoke", "--params", "sead=1"], "did you mean 'seed'?"),
        (["status", "smoke", "--params", "data_dir"], "not of the form NAME=VALUE"),
    ],
)
def test_mistakes_get_one_clear_line(monkeypatch, arguments, expected) -> None:
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(cli, ["benchmark", *arguments])
    assert result.exit_code == 1
    assert expected in result.stderr
    assert "Traceback" not in result.output


def test_a_table_of_nothing_replaces_nothing(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(ROOT)
    document = tmp_path / "README.md"
    document.write_text(DOCUMENT.replace("text", "smoke"))
    options = ["--to", str(tmp_path / "tables"), "--into", str(document)]
    settings = ["--params", f"data_dir={tmp_path / 'data'}"]
    result = CliRunner().invoke(cli, ["benchmark", "table", "smoke", *options, *settings])
    assert result.exit_code == 1
    assert "no cell of smoke has ended" in result.stderr
    assert "old" in document.read_text() and not (tmp_path / "tables").exists()


def test_one_cell_that_failed_among_others_that_are_missing(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(ROOT)
    grid = Benchmark.open(ROOT, "smoke", {"data_dir": str(tmp_path)})
    record = {"status": "failed", "error": "no memory\nat all", "machine": machine(), "threads": 1}
    grid.records.write(grid.cells[0].id, record)
    settings = ["--params", f"data_dir={tmp_path}"]
    result = CliRunner().invoke(cli, ["benchmark", "status", "smoke", *settings])
    assert result.exit_code == 0
    told = [line for line in result.output.splitlines() if line.startswith("failed: ")]
    assert len(told) == 1
    assert told[0].startswith(f"failed: {grid.cells[0]}: no memory (log: ")


def test_outside_of_a_project(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["benchmark", "status", "smoke"])
    assert "is not in a Kedro project" in result.stderr


def test_names_of_grids_and_paths_are_the_same(tmp_path) -> None:
    path = ROOT / "conf" / "base" / "grids" / "smoke.yml"
    by_name, by_path = (
        Benchmark.open(ROOT, name, {"data_dir": str(tmp_path)}) for name in ("smoke", str(path))
    )
    assert by_name.cells == by_path.cells
    assert by_name.folder == tmp_path / "08_reporting" / "grids" / "smoke"


class TestWhereItMayRun:
    @pytest.fixture
    def grid(self, tmp_path: Path, monkeypatch) -> Benchmark:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
        return Benchmark.open(ROOT, "smoke", {"data_dir": str(tmp_path)})

    def test_a_grid_runs_once_at_a_time(self, grid) -> None:
        with grid._alone():
            assert grid.is_running()
            with pytest.raises(InputError, match="is being run already"):
                next(grid.run(Serial(), threads=1))
        assert not grid.is_running()

    def test_several_hosts_need_a_server(self, grid, tmp_path) -> None:
        several = Serial()
        several.hosts = {"one", "two"}
        with pytest.raises(InputError, match=r"mlflow server.*MLFLOW_TRACKING_URI.*one, two"):
            next(grid.run(several, threads=1))
        assert not (tmp_path / "mlflow.db").exists()
