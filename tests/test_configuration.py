"""How configuration is read: typed parameters, keyed folders, one entry a method."""

from __future__ import annotations

import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.parameters import Parameters
from backdoor_pipeline.recipes import DETECTORS, RECIPES
from tiny import ROOT, project_loader


@pytest.fixture(scope="module")
def loader(model_folder):
    return project_loader({"model": str(model_folder()), "data_dir": "somewhere"})


def test_parameters_are_typed_groups(loader) -> None:
    parameters = loader["parameters"]
    assert set(parameters) == set(Parameters.model_fields)
    assert parameters["poison"] == loader.typed_parameters.poison
    assert parameters["seed"] == 0


def test_shorthands_work_at_run_time(loader, model_folder) -> None:
    assert loader.typed_parameters.model.name == str(model_folder())
    assert loader.typed_parameters.data_dir == "somewhere"


def test_an_error_comes_with_the_first_look() -> None:
    with pytest.raises(InputError, match="sead"):
        project_loader({"sead": 1})["parameters"]
    with pytest.raises(InputError, match="sead"):
        project_loader({"sead": 1})["catalog"]


def test_folders_are_named_by_their_keys(loader) -> None:
    catalog, keys = loader["catalog"], loader.keys_of_stages
    assert catalog["victim_model"]["filepath"] == f"somewhere/06_models/{keys['victim']}/victim"
    metrics = f"somewhere/08_reporting/{keys['btu']}/metrics.json"
    assert catalog["btu.metrics"]["filepath"] == metrics
    assert catalog["base_model"]["model"] == loader.typed_parameters.model.model_dump(mode="json")


def test_every_method_has_its_entries(loader) -> None:
    catalog = loader["catalog"]
    assert {f"{detector}_suspects" for detector in DETECTORS} <= set(catalog)
    for part in ("purified_model", "predictions", "metrics", "report", "costs"):
        assert {f"{recipe}.{part}" for recipe in RECIPES} <= set(catalog)
    assert not [name for name in catalog if "{" in name]
    assert "{key" not in str(catalog)


def test_a_defended_run_counts_the_cost_of_what_it_needs(loader) -> None:
    keys, catalog = loader.keys_of_stages, loader["catalog"]
    names = ("ingest", "poison", "victim", "token_drift", "btu.purified", "btu")
    assert catalog["btu.costs"]["keys"] == [keys[name] for name in names]


def test_two_sessions_in_one_process_do_not_mix() -> None:
    first, second = (project_loader({"data_dir": name, "seed": 1}) for name in ("first", "second"))
    for loader, name in ((first, "first"), (second, "second"), (first, "first")):
        path = loader["catalog"]["examples"]["filepath"]
        assert path == f"{name}/03_primary/{loader.keys_of_stages['ingest']}/examples.parquet"


def test_odd_names_stay_names(tmp_path, model_folder) -> None:
    folder = tmp_path / 'a "model" \\ of mine'
    folder.mkdir()
    for path in model_folder().iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    loader = project_loader({"model": {"name": str(folder)}})
    assert folder.name in loader["catalog"]["btu.metrics"]["filepath"]


def test_every_number_stands_with_its_comment() -> None:
    """Each line of ``conf/base/parameters*.yml`` that sets a value belongs to a commented group."""
    for path in (ROOT / "conf" / "base").glob("parameters*.yml"):
        assert "#" in path.read_text(encoding="utf-8"), path.name


def test_a_purified_model_says_what_made_it(loader) -> None:
    published, calibrated = (
        loader["catalog"][f"{recipe}.purified_model"]["provenance"]
        for recipe in ("btu", "btu_calibrated")
    )
    assert published["recipe"] == "btu"
    assert {"training", "token_drift", "token_replacement"} <= published.keys()
    assert not {"token_association", "confirmation", "recalibration"} & published.keys()
    assert {"token_association", "confirmation", "recalibration"} <= calibrated.keys()
