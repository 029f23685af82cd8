"""The notebook on a finished run."""

from __future__ import annotations

from typing import Any

import pytest

from tiny import ROOT

pytestmark = pytest.mark.slow
NOTEBOOK = ROOT / "notebooks" / "01_inspect_a_run.ipynb"


@pytest.fixture
def execute(finished_run, run_environment, monkeypatch):
    """Returns the notebook's outputs, run with other values for some of the run's ``--params``."""
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra `dev`)")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra `dev`)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra `dev`)")
    for name, value in run_environment(finished_run.tracking_uri).items():
        monkeypatch.setenv(name, value)

    def run(**changes: object) -> list[dict[str, Any]]:
        params = [finished_run.params, *(f"{name}={value}" for name, value in changes.items())]
        monkeypatch.setenv("PARAMS", ",".join(params))
        monkeypatch.setenv("KEDRO_ENV", "smoke")
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        place = {"metadata": {"path": str(NOTEBOOK.parent)}}
        nbclient.NotebookClient(notebook, timeout=120, resources=place).execute()
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        return [output for cell in cells for output in cell.outputs]

    return run


def test_shows_rates_suspects_changes_and_a_figure(execute, finished_run) -> None:
    shown = [output["data"] for output in execute() if "data" in output]
    text = "\n".join(data.get("text/plain", "") for data in shown)
    rate = f"{100 * finished_run.metrics['purified']['clean_accuracy']:.1f} %"
    assert rate in text
    suspects = next(data["text/plain"] for data in shown if "evidence" in str(data))
    assert "cf" in suspects
    changes = [data["text/plain"] for data in shown if "victim  purified" in str(data)]
    assert " cf " in changes[0]
    assert any("application/vnd.plotly.v1+json" in data for data in shown)


def test_says_what_to_run_first(execute) -> None:
    from nbclient.exceptions import CellExecutionError

    with pytest.raises(CellExecutionError, match="this run is not finished: kedro run --pipelines"):
        execute(seed=99)


@pytest.mark.parametrize("notebook", sorted(NOTEBOOK.parent.glob("*.ipynb")), ids=lambda p: p.stem)
def test_is_kept_without_outputs(notebook) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra `dev`)")
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    assert [cell.outputs for cell in cells] == [[]] * len(cells)
    assert {cell.execution_count for cell in cells} == {None}
