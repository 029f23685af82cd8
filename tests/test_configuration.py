"""How configuration is read: typed parameters, keyed folders, one entry a method."""

from __future__ import annotations

import shutil

import pytest
import yaml

from backdoor_pipeline import settings
from backdoor_pipeline.configuration import ProjectConfigLoader
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


@pytest.fixture
def own_conf(tmp_path):
    """The project's configuration with other files: ``own_conf({"smoke/image.yml": {...}})``."""

    def make(files, env, **runtime_params):
        folder = shutil.copytree(ROOT / "conf", tmp_path / "conf", dirs_exist_ok=True)
        for name, values in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(yaml.safe_dump(values), encoding="utf-8")
        arguments = {**settings.CONFIG_LOADER_ARGS, "default_run_env": "base"}
        loader = ProjectConfigLoader(
            conf_source=str(folder), env=env, runtime_params=runtime_params, **arguments
        )
        return loader.typed_parameters

    return make


class TestModality:
    def test_images_have_values_of_their_own(self) -> None:
        texts = project_loader().typed_parameters
        images = project_loader({"modality": "image"}).typed_parameters
        own = yaml.safe_load((ROOT / "conf" / "base" / "image.yml").read_text(encoding="utf-8"))
        assert (texts.modality, images.modality) == ("text", "image")
        for group, values in own.items():
            before, after = (made.model_dump()[group] for made in (texts, images))
            assert before != after, group
            assert after == _merged(before, values), group
        same = set(Parameters.model_fields) - {*own, "modality"}
        assert texts.model_dump(include=same) == images.model_dump(include=same)

    def test_the_command_line_comes_last(self) -> None:
        given = {"training": {"epochs": 3}, "poison.rate": 0.5, "dataset": "cifar10"}
        images = project_loader({"modality": "image", **given}).typed_parameters
        assert (images.training.epochs, images.training.optimiser) == (3, "sgd")
        assert (images.poison.rate, images.poison.attack) == (0.5, "patch")
        assert images.source.dataset == "cifar10"

    @pytest.mark.parametrize("modality", ["text", "image"])
    def test_cells_read_them_whatever_the_project_is_set_to(self, modality) -> None:
        changes = {"modality": modality, "seed": 5}
        expected = project_loader(changes).typed_parameters
        for given in ({}, {"modality": "image"}, {"modality": "text"}):
            loader = project_loader(given)
            before = loader.typed_parameters
            assert loader.parameters_with(changes) == expected
            assert loader.typed_parameters == before

    def test_an_environment_changes_some_of_them(self, own_conf) -> None:
        files = {
            "own/parameters.yml": {"training": {"epochs": 2}, "model": {"width": 0.75}, "seed": 4},
            "own/image.yml": {"training": {"batch_size": 7}, "poison": {"rate": 0.3}},
        }
        texts = own_conf(files, "own")
        assert (texts.training.epochs, texts.training.batch_size) == (2, 32)
        images = own_conf(files, "own", modality="image")
        base = project_loader({"modality": "image"}).typed_parameters
        changed = {"batch_size": 7}
        assert images.training == base.training.model_copy(update=changed)
        assert images.model == base.model  # after the parameters*.yml of any environment
        assert images.poison == base.poison.model_copy(update={"rate": 0.3})
        assert images.seed == 4

    def test_a_project_may_be_set_to_images(self, own_conf) -> None:
        images = own_conf({"own/parameters.yml": {"modality": "image"}}, "own", seed=3)
        assert (images.poison.attack, images.seed) == ("patch", 3)

    def test_its_catalog_can_be_read(self) -> None:
        loader = project_loader({"modality": "image"})
        catalog, key = loader["catalog"], loader.keys_of_stages["victim"]
        assert key.startswith("mnist_digits.patch-0.03.resnet9.s0-")
        assert catalog["victim_model"]["filepath"] == f"data/06_models/{key}/victim"
        assert catalog["victim_model"]["provenance"]["training"]["optimiser"] == "sgd"
        assert catalog["encoded_images"]["poison"]["attack"] == "patch"
        provenance = catalog["potion.purified_model"]["provenance"]
        assert {"discovered_share", "trigger_search"} <= provenance.keys()

    def test_there_is_no_other(self) -> None:
        with pytest.raises(InputError, match="modality is 'images'; did you mean 'image'"):
            project_loader({"modality": "images"})["parameters"]


def _merged(values, changes):
    values = values or {}  # null, where a group is optional
    return values | {
        name: _merged(values.get(name), value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
