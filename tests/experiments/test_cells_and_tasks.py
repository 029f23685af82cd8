"""Cells are checked before anything runs; what they share is run once."""

from __future__ import annotations

from typing import Any

import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.experiments.cells import cells_of
from backdoor_pipeline.experiments.grid import Grid
from backdoor_pipeline.experiments.tasks import plan
from tiny import make_images, project_loader


@pytest.fixture(scope="module")
def make_cells(tmp_path_factory, corpus, model_folder):
    """The cells of a grid on own data and a tiny model; axes may be changed."""
    data = tmp_path_factory.mktemp("cells") / "reviews.csv"
    corpus.head(50).to_csv(data, index=False)
    own = {"name": "reviews", "dataset": "table", "parameters": {"data": str(data)}}
    axes = {
        "datasets": [own],
        "attacks": ["badnets"],
        "models": [{"name": "tiny", "model": str(model_folder())}],
        "recipes": ["btu"],
        "seeds": [0],
    }
    loader = project_loader()

    def make(settings: dict[str, Any] | None = None, **changes: Any):
        return cells_of(Grid.model_validate(axes | changes), loader, settings or {}, "own.yml")

    return make


@pytest.fixture(scope="module")
def make_image_cells(tmp_path_factory):
    """The cells of a grid of images; axes may be changed."""
    data = tmp_path_factory.mktemp("cells") / "pictures.parquet"
    make_images(n_train=20, n_dev=0, n_test=0).to_parquet(data)
    own = {"name": "pictures", "dataset": "image_table", "parameters": {"data": str(data)}}
    axes = {
        "datasets": [own],
        "attacks": [{"attack": "patch", "rates": [0.05]}],
        "models": ["resnet9"],
        "recipes": ["potion", "retrain"],
        "seeds": [3],
    }

    def make(settings: dict[str, Any] | None = None, env: str = "base", **changes: Any):
        loader, grid = project_loader(env=env), Grid.model_validate(axes | changes)
        return cells_of(grid, loader, settings or {}, "own.yml")

    return make


class TestCells:
    def test_a_cell_knows_its_place_and_its_folder(self, make_cells) -> None:
        (cell,) = make_cells(attacks=[{"attack": "badnets", "rates": [0.05]}], seeds=[3])
        assert list(cell.coordinates.values()) == [
            "reviews",
            "badnets",
            0.05,
            "mix",
            "tiny",
            3,
            "btu",
        ]
        assert cell.id.startswith("reviews_csv.badnets-0.05.tiny-bert.s3.btu-")
        assert cell.target_label == 1

    def test_a_method_is_a_recipe_with_settings(self, make_cells) -> None:
        other = {
            "name": "no cut",
            "recipe": "btu",
            "parameters": {"token_replacement.cut_scale": 0},
        }
        plain, changed = make_cells(recipes=["btu", other])
        assert plain.pipeline == changed.pipeline == "btu"
        assert plain.keys["victim"] == changed.keys["victim"]
        assert plain.id != changed.id

    def test_settings_of_the_command_line_come_last(self, make_cells) -> None:
        (cell,) = make_cells({"poison_rate": 0.2}, attacks=[{"attack": "badnets", "rates": [0.05]}])
        assert cell.coordinates["poison_rate"] == 0.2

    def test_what_other_settings_have_replaced_is_called_by_them(self, make_cells) -> None:
        settings = {"attack": "addsent", "seed": 7}
        (cell,) = make_cells(settings, attacks=[{"name": "words", "attack": "badnets"}])
        assert cell.coordinates["attack"] == "addsent"
        assert cell.coordinates["seed"] == 7
        with pytest.raises(InputError, match="are the same run"):
            make_cells(settings, seeds=[0, 1])

    def test_exclusions(self, make_cells) -> None:
        cells = make_cells(
            attacks=["badnets", "addsent"],
            seeds=[0, 1],
            exclude=[{"attack": "addsent", "seed": [1, 2]}],
        )
        assert [(c.coordinates["attack"], c.coordinates["seed"]) for c in cells] == [
            ("badnets", 0),
            ("addsent", 0),
            ("badnets", 1),
        ]

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"recipes": ["btuu"]}, "there is no recipe 'btuu'; did you mean 'btu'?"),
            ({"attacks": ["badnet"]}, "did you mean 'badnets'?"),
            ({"attacks": [{"attack": "badnets", "rates": [2]}]}, "poison.rate is 2"),
            ({"parameters": {"sead": 1}}, "there is no parameter 'sead'"),
            ({"parameters": {"fresh": True}}, "fresh=true is for single runs"),
            ({"datasets": ["sst2"], "parameters": {"source.folder": "/no"}}, "'sst2' is not there"),
            ({"exclude": [{"seed": 7}]}, "fits no cell"),
            ({"exclude": [{"seed": 0}]}, "all cells are excluded"),
            ({"recipes": ["btu", {"name": "again", "recipe": "btu"}]}, "are the same run"),
        ],
    )
    def test_mistakes_stop_the_grid_before_it_starts(self, make_cells, changes, expected) -> None:
        with pytest.raises(InputError) as error:
            make_cells(**changes)
        assert expected in str(error.value)
        assert "own.yml" in str(error.value)


class TestImages:
    def test_a_cell_is_of_its_recipes_modality(self, make_image_cells) -> None:
        potion, retrain = make_image_cells()
        assert potion.settings["modality"] == retrain.settings["modality"] == "image"
        assert potion.id.startswith("pictures_parquet.patch-0.05.resnet9.s3.potion-")
        assert potion.target_label == 0  # of image.yml
        assert potion.keys["victim"] == retrain.keys["victim"]
        assert list(potion.keys)[-1] == "potion"
        assert "token_drift" not in potion.keys and "discovered_share" in potion.keys

    def test_its_keys_are_those_of_a_run_by_itself(self, make_image_cells) -> None:
        potion, _ = make_image_cells()
        assert potion.keys["potion"] == project_loader(potion.settings).keys_of_stages["potion"]

    @pytest.mark.parametrize("field", ["share", "rows"])
    def test_a_recipe_may_be_told_more_or_less(self, make_image_cells, field) -> None:
        told = [
            {
                "name": f"potion {value}",
                "recipe": "potion",
                "parameters": {"discovered_share.share": None, f"discovered_share.{field}": value},
            }
            for value in ((0.1, 1.0) if field == "share" else (1, 9))
        ]
        some, more = make_image_cells(recipes=told)
        assert some.keys["victim"] == more.keys["victim"]
        assert some.keys["discovered_share"] != more.keys["discovered_share"]

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"attacks": ["badnets"]}, "'badnets' is for text data, but modality is 'image'"),
            (
                {"recipes": ["potion", "btu"]},
                "'patch' is for image or pair data, but modality is 'text'",
            ),
            ({"datasets": ["cifar10"], "parameters": {"source.folder": "/no"}}, "'cifar10' is not"),
            ({"attacks": [{"attack": "pacth"}]}, "did you mean 'patch'?"),
            ({"parameters": {"trigger_search.rho": 2}}, "trigger_search.rho is 2"),
            ({"attacks": ["badnets"], "parameters": {"modality": "text"}}, "image data"),
        ],
    )
    def test_mistakes_stop_the_grid_before_it_starts(
        self, make_image_cells, changes, expected
    ) -> None:
        with pytest.raises(InputError) as error:
            make_image_cells(**changes)
        assert expected in str(error.value)
        assert "own.yml, cell" in str(error.value)

    def test_recipes_share_victim_and_told_rows(self, make_image_cells) -> None:
        tasks = plan(make_image_cells(recipes=["potion", "ssd", "retrain", "scrub"]))
        for stage in ("ingest", "poison", "reference", "victim", "floor", "discovered_share"):
            assert sum(stage in task.stages for task in tasks) == 1, stage
        assert sum(task.finishes for task in tasks) == 4


class TestTasks:
    def test_a_cell_that_shares_nothing_is_one_process(self, make_cells) -> None:
        (task,) = plan(make_cells())
        assert task.finishes
        assert task.stages == tuple(task.cell.keys)
        assert not task.needs

    def test_four_defences_share_one_victim_and_one_reference(self, make_cells) -> None:
        scaled = [
            {"name": f"{x}", "recipe": "btu", "parameters": {"token_replacement.cut_scale": x}}
            for x in (0, 0.5)
        ]
        tasks = plan(make_cells(recipes=["btu", "association", *scaled]))
        for stage in ("ingest", "poison", "reference", "victim", "floor", "token_drift"):
            assert sum(stage in task.stages for task in tasks) == 1
        assert sum(task.finishes for task in tasks) == 4

    def test_each_task_comes_after_those_it_needs(self, make_cells) -> None:
        cells = make_cells(
            attacks=["badnets", "addsent"], recipes=["btu", "btu_calibrated", "association"],
            seeds=[0, 1],
        )  # fmt: skip
        done: set[str] = set()
        made: set[str] = set()
        for task in plan(cells):
            assert set(task.needs) <= done
            done.add(task.name)
            own = {task.cell.keys[stage] for stage in task.stages}
            assert not own & made
            made |= own
        assert made == {key for cell in cells for key in cell.keys.values()}
        assert {cell.id for cell in cells} <= done

    def test_the_reference_is_shared_by_attacks_the_victim_is_not(self, make_cells) -> None:
        tasks = plan(make_cells(attacks=["badnets", "addsent"], recipes=["btu", "association"]))
        stages = [set(task.stages) for task in tasks if not task.finishes]
        assert stages == [{"ingest", "reference"}, *2 * [{"poison", "victim", "floor"}]]
