"""The catalog and the pipelines fit, and outputs lie in the folders of their layers."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.io import MemoryDataset
from kedro.io.core import parse_dataset_definition

from backdoor_pipeline.pipeline_registry import create_discovery, register_pipelines
from backdoor_pipeline.recipes import RECIPES
from tiny import ROOT, project_loader

FOLDERS = {  # of each layer; kedro-viz tells more layers apart than there are folders
    "raw": "01_raw",
    "primary": "03_primary",
    "model_input": "05_model_input",
    "models": "06_models",
    "purified_models": "06_models",
    "suspects": "07_model_output",
    "model_output": "07_model_output",
    "reporting": "08_reporting",
}
READ_ONLY = {
    "SourceDataset",
    "CleanSourceDataset",
    "PretrainedModelDataset",
    "PretrainedTokenizerDataset",
    "CostsDataset",
    "EncodedImagesDataset",
    "GivenClassifierDataset",
}


@pytest.fixture(scope="module")
def loader(model_folder):
    return project_loader({"model": str(model_folder())})


@pytest.fixture(scope="module")
def catalog(loader):
    return loader["catalog"]


@pytest.fixture(scope="module")
def pipelines():
    curves = [name for name, recipe in RECIPES.items() if recipe.curve]
    return register_pipelines() | {f"{name} discovery": create_discovery(name) for name in curves}


def data(names: set[str]) -> set[str]:
    return {name for name in names if not name.startswith("param")}


def test_every_entry_is_used_and_every_dataset_has_an_entry(catalog, pipelines) -> None:
    used = set().union(*(data(pipeline.datasets()) for pipeline in pipelines.values()))
    assert set(catalog) == used


def test_every_entry_stands_in_the_file_of_its_folder() -> None:
    import yaml

    for path in sorted((ROOT / "conf" / "base").glob("catalog_*.yml")):
        layer = path.stem.removeprefix("catalog_")
        for name, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            if "filepath" in entry and not name.endswith(".costs"):
                assert f"/{layer}/" in entry["filepath"], name


def test_every_output_lies_in_the_folder_of_its_layer(catalog) -> None:
    for name, entry in catalog.items():
        folder = FOLDERS[entry["metadata"]["kedro-viz"]["layer"]]
        kind = entry["type"].rpartition(".")[2]
        if "filepath" not in entry or kind in READ_ONLY:
            assert kind in READ_ONLY | {"MemoryDataset"}, name
            continue
        if entry["type"].endswith("JSONDataset") and "history" in name:
            folder = "07_model_output"
        assert entry["filepath"].startswith(f"data/{folder}/"), name


def test_no_two_entries_share_a_file(catalog) -> None:
    paths = [
        entry["filepath"]
        for entry in catalog.values()
        if entry["type"].rpartition(".")[2] not in READ_ONLY and "filepath" in entry
    ]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("recipe", RECIPES)
def test_nothing_that_crosses_stages_is_in_memory_alone(catalog, pipelines, recipe) -> None:
    stage_of = {}
    for node in pipelines[recipe].nodes:
        for name in node.outputs:
            stage_of[name] = node.func.__module__.split(".")[2]
    for node in pipelines[recipe].nodes:
        stage = node.func.__module__.split(".")[2]
        for name in data(set(node.inputs)):
            if name in stage_of and stage_of[name] != stage:
                assert catalog[name]["type"] != "MemoryDataset", name


@pytest.mark.parametrize("modality", ["text", "image"])
def test_every_entry_can_be_made(model_folder, modality, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    catalog = project_loader({"modality": modality, "model": str(model_folder())})["catalog"]
    for name, entry in catalog.items():
        dataset_class, settings = parse_dataset_definition(entry, None, None)
        dataset = dataset_class(**{k: v for k, v in settings.items() if k != "credentials"})
        assert dataset._describe() is not None, name
        assert isinstance(dataset, MemoryDataset) == (entry["type"] == "MemoryDataset")


def test_what_a_user_keeps_is_versioned(catalog) -> None:
    for name, entry in catalog.items():
        kept = name.partition(".")[2] in {"metrics", "report", "purified_model"}
        assert bool(entry.get("versioned")) == kept, name


def test_images_lie_in_the_same_places(catalog) -> None:
    images = project_loader({"modality": "image"})["catalog"]
    assert images.keys() == catalog.keys()
    for name, entry in images.items():
        texts = catalog[name]
        assert (entry["type"], entry["metadata"]) == (texts["type"], texts["metadata"]), name
        one, other = (Path(made.get("filepath", "")).parts for made in (entry, texts))
        assert (one[:2], one[3:]) == (other[:2], other[3:]), name  # the third is the key


def test_victims_and_references_say_where_they_come_from(catalog) -> None:
    models = {n: e for n, e in catalog.items() if e["type"].endswith("ClassifierDataset")}
    assert {"victim_model", "reference_model"} < set(models)
