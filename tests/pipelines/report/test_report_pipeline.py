from __future__ import annotations

from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from kedro.validation.type_extractor import TypeExtractor

from backdoor_pipeline.pipelines.report.params import ReportParams
from backdoor_pipeline.pipelines.report.pipeline import create_pipeline
from backdoor_pipeline.recipes import RECIPES

FIGURES = {"before_after_figure", "drift_figure", "association_figure", "training_figure"}


def test_pipeline_runs_in_memory(cell, params):
    cell["parameters"] = cell.pop("all_parameters")
    data = {name: MemoryDataset(value) for name, value in cell.items()}
    catalog = DataCatalog(data | {"params:report": MemoryDataset(params)})
    outputs = SequentialRunner().run(create_pipeline("btu", RECIPES["btu"]), catalog)
    assert outputs["report"].load().startswith("<!DOCTYPE html>")
    assert "btu / rotten_tomatoes" in outputs["report"].load()
    assert "Recipe: `btu`" in outputs["model_card"].load()


def test_wiring():
    pipeline = create_pipeline("btu", RECIPES["btu"])
    assert {node.name for node in pipeline.nodes} == {
        "draw_figures",
        "build_report",
        "write_model_card",
    }
    assert all(node.tags == {"report"} for node in pipeline.nodes)
    assert pipeline.outputs() == {"report", "model_card"}
    assert pipeline.all_outputs() == FIGURES | {"report", "model_card"}


def test_kedro_sees_the_type_of_the_parameters():
    found = TypeExtractor(
        {"report": create_pipeline("btu", RECIPES["btu"])}
    ).extract_types_from_pipelines()
    assert found == {"report": ReportParams}
