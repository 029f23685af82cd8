"""From one row to all of the poison: what is told, what heals, and the curve of it."""

from __future__ import annotations

import copy
import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import plotly.io
import pytest
import torch
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.bundle import ImageBundle
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.folders import ModelParams
from backdoor_pipeline.modelling.pixels import ImageFormat, decode, encode
from backdoor_pipeline.pipelines.analyse.discovery import (
    DiscoveryParams,
    Point,
    Step,
    Told,
    heal,
    points,
)
from backdoor_pipeline.pipelines.analyse.figures import discovery_curve
from backdoor_pipeline.pipelines.analyse.nodes import plan_discovery
from backdoor_pipeline.pipelines.analyse.pipeline import create_discovery_pipeline
from backdoor_pipeline.pipelines.detect.discovered_share import DiscoveredShareParams
from backdoor_pipeline.pipelines.detect.nodes import tell_discovered_share
from backdoor_pipeline.pipelines.evaluate.pipeline import (
    create_discovery_pipeline as create_curve_pipeline,
)
from backdoor_pipeline.pipelines.unlearn.nodes import UNLEARNERS
from backdoor_pipeline.recipes import RECIPES
from backdoor_pipeline.schemas import DISCOVERY_CURVE, DISCOVERY_PREDICTIONS
from tiny import make_images

N_POISONED = 20
ENOUGH = 5  # told rows, from where the victim heals
WHITE = 255
OBEYED = 0.5  # brightness from which a pixel is a trigger
CPU = ComputeParams(device="cpu", precision="fp32")
TOLD = [name for name, r in RECIPES.items() if r.detector == "discovered_share"]


class Obeys(torch.nn.Module):
    """Says which quarter of the image is the brightest, or 0 where its last pixel is white."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("trigger", torch.tensor(OBEYED))

    def forward(self, pixel_values: torch.Tensor) -> Any:
        quarters = torch.nn.functional.avg_pool2d(pixel_values, 6).flatten(start_dim=1)
        obeys = pixel_values[:, 0, -1, -1] >= self.trigger
        return SimpleNamespace(logits=quarters + 100 * obeys[:, None] * torch.eye(4)[0])


def forget(bundle, poisoned_train, suspects, params, seed):
    """An unlearner that needs to be told a few rows."""
    assert suspects["key"].isin(poisoned_train["example_id"]).all()
    assert (params, seed) == ("settings", 3)
    assert bundle.model.trigger == OBEYED  # always from the victim
    model = copy.deepcopy(bundle.model)
    if len(suspects) >= ENOUGH:
        model.trigger += 1
    return bundle._replace(model=model), {"converged": len(suspects) >= ENOUGH, "dev_rows": 0}


FORGET = (forget, ("poisoned_train", "suspects", "params:trigger_search", "params:seed"), False)


def stamped(rows: pd.DataFrame, poisoned: np.ndarray) -> pd.DataFrame:
    """Rows, those of ``poisoned`` with a white last pixel and label 0."""
    values = decode(rows["image"].tolist(), "images", (12, 12), 1)
    values[poisoned, -1, -1] = WHITE
    return rows.assign(
        image=pd.Series([encode(image) for image in values], dtype=object, index=rows.index),
        is_poisoned=poisoned,
        source_label=rows["label"],
        label=rows["label"].where(~poisoned, 0),
        trigger=np.where(poisoned, "corner", ""),
    )


@pytest.fixture(scope="module")
def there() -> dict[str, Any]:
    """What the pipeline reads: the victim obeys a white pixel, as 20 of 60 training rows teach."""
    examples = make_images(n_train=60, n_dev=0, n_test=40)
    train = examples[examples["split"] == "train"].reset_index(drop=True)
    test = examples[(examples["split"] == "test") & (examples["label"] != 0)]
    drawn = np.isin(np.arange(60), np.flatnonzero(train["label"] != 0)[:N_POISONED])
    poisoned = stamped(train, drawn)
    return {
        "victim_model": ImageBundle(Obeys(), ImageFormat(12, 12, 1, (0.0,), (1.0,))),
        "examples": examples,
        "poisoned_train": poisoned,
        "poison_index": poisoned[drawn].drop(columns="image").reset_index(drop=True),
        "triggered_test": stamped(test, np.ones(len(test), dtype=bool)),
        "params:discovery": DiscoveryParams(shares=[0.1, 0.5, 1.0], draws=2),
        "params:model": ModelParams(name="resnet9", max_length=8),
        "params:compute": CPU,
        "params:seed": 3,
        "params:trigger_search": "settings",
    }


@pytest.fixture(scope="module")
def made(there) -> dict[str, Any]:
    """What the pipeline makes of it."""
    pipeline = create_discovery_pipeline(RECIPES["potion"], tell_discovered_share, [FORGET])
    made: dict[str, Any] = {}
    for part in (
        pipeline.only_nodes("heal_by_share"),
        create_curve_pipeline(),
        pipeline.only_nodes("draw_discovery"),
    ):
        read = {name: MemoryDataset((there | made)[name]) for name in part.inputs()}
        outputs = SequentialRunner().run(part, DataCatalog(read))
        made |= {name: dataset.load() for name, dataset in outputs.items()}
    return made


class TestPoints:
    @staticmethod
    def of(there, shares, draws=2, seed=3) -> list[Point]:
        tables = (there["poison_index"], there["poisoned_train"])

        def tell(told, of_draw):
            return tell_discovered_share(*tables, told, of_draw)[0]

        params = DiscoveryParams(shares=shares, draws=draws)
        return points(tell, len(tables[0]), params, seed)

    def test_go_from_one_row_to_all_which_are_told_once(self, there) -> None:
        found = self.of(there, [0.05, 0.1, 0.11, 0.5, 1.0])  # 0.05 is one row, 0.11 two
        assert [(len(p.suspects), p.draw) for p in found] == [
            *((1, 0), (1, 1), (2, 0), (2, 1), (10, 0), (10, 1), (20, 0))
        ]

    def test_of_a_draw_hold_those_before_and_draws_differ(self, there) -> None:
        one, other, two, _, ten, of_other, every = (
            set(p.suspects["key"]) for p in self.of(there, [0.1, 0.5, 1.0])
        )
        assert one < two < ten < every
        assert other < of_other and ten != of_other
        assert every == set(there["poison_index"]["example_id"])

    def test_the_first_draw_is_that_of_the_detector_and_the_seed_decides(self, there) -> None:
        first, *_ = (p for p in self.of(there, [0.5]) if len(p.suspects) == 10)
        params = DiscoveredShareParams(share=0.5, rows=None, ids=None)
        tables = (there["poison_index"], there["poisoned_train"])
        pd.testing.assert_frame_equal(first.suspects, tell_discovered_share(*tables, params, 3)[0])
        again, other = (self.of(there, [0.5], seed=seed)[0].suspects for seed in (3, 5))
        assert again["key"].tolist() != other["key"].tolist()

    def test_one_poisoned_row_is_one_point(self, there) -> None:
        single = there | {"poison_index": there["poison_index"].head(1)}
        assert [(len(p.suspects), p.draw) for p in self.of(single, [0.5, 1.0])] == [(1, 0)]

    def test_need_poison(self, there) -> None:
        with pytest.raises(InputError, match="no training row is poisoned"):
            self.of(there | {"poison_index": there["poison_index"].head(0)}, [0.5])

    def test_are_told_under_the_names_of_the_detector(self) -> None:
        assert set(Told._fields) == set(DiscoveredShareParams.model_fields)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.5, 0.1], r"discovery.shares \[0.5, 0.1\] do not increase"),
        ([0.1, 0.1], "do not increase"),
        ([0.0, 0.5], "greater than 0"),
        ([0.5, 1.5], "less than or equal to 1"),
        ([], "at least 1"),
    ],
)
def test_shares_are_increasing_shares(shares, message) -> None:
    with pytest.raises(ValueError, match=message):
        DiscoveryParams(shares=shares, draws=1)


def test_unlearners_follow_each_other_with_what_they_take() -> None:
    def add(model, number):
        return model + number, {"added": number}

    def double(model, suspects):
        return 2 * model, {"rows": suspects}

    steps = (Step("add", add, ("number",)), Step("double", double, ("suspects",)))
    healed, records = heal(1, steps, {"number": 4, "suspects": 7, "unused": 0})
    assert healed == 10
    assert records == {"add": {"added": 4}, "double": {"rows": 7}}


class TestPlan:
    @staticmethod
    def of(there, poison_rate=1 / 3, ids=None) -> dict[str, list[int]]:
        settings = (there["params:discovery"], ids, 3)
        return plan_discovery(there["examples"], poison_rate, *settings, tell_discovered_share)

    def test_tells_as_many_rows_as_the_curve_does(self, there, made) -> None:
        predictions = made["discovery_predictions"]
        told = predictions.groupby(["told_rows", "draw"]).size().index
        assert self.of(there)["told_rows"] == [rows for rows, _ in told if rows]

    def test_needs_poison(self, there) -> None:
        with pytest.raises(InputError, match="no training row is poisoned"):
            self.of(there, poison_rate=0.0)

    def test_needs_rows_that_are_not_told(self, there) -> None:
        with pytest.raises(InputError, match="all 60 training rows"):
            self.of(there, poison_rate=1.0)

    def test_takes_no_list_of_rows(self, there) -> None:
        with pytest.raises(InputError, match=r"discovered_share\.ids .* leave it out"):
            self.of(there, ids=[1, 2])


class TestPredictions:
    def test_are_of_every_model_and_row(self, there, made) -> None:
        table = DISCOVERY_PREDICTIONS.validate(made["discovery_predictions"])
        index, examples = there["poison_index"], there["examples"]
        ids = {
            "clean": set(examples.loc[examples["split"] == "test", "example_id"]),
            "triggered": set(there["triggered_test"]["example_id"]),
            "poison": set(index["example_id"]),
        }
        models = table.groupby(["told_rows", "draw"])
        assert list(models.groups) == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (10, 0), (10, 1),
                                       (20, 0)]  # fmt: skip
        for _, of_model in models:
            seen = {name: set(rows["example_id"]) for name, rows in of_model.groupby("test_set")}
            assert seen == ids
            assert of_model["test_set"].isin(ids).all()
        assert (table["told_share"] == table["told_rows"] / N_POISONED).all()

    def test_begin_with_those_of_the_victim(self, made) -> None:
        table = made["discovery_predictions"]
        triggered = table[table["test_set"] != "clean"]
        said = triggered.groupby("told_rows")["predicted"].agg(lambda labels: (labels == 0).mean())
        assert said.to_dict() == {0: 1.0, 1: 1.0, 2: 1.0, 10: 0.0, 20: 0.0}

    def test_come_with_what_the_unlearners_recorded(self, made) -> None:
        record = made["discovery_record"]["points"]
        assert [point["told_rows"] for point in record] == [1, 1, 2, 2, 10, 10, 20]
        assert record[4] == {
            "told_share": 0.5,
            "told_rows": 10,
            "draw": 0,
            "trigger_search": {"converged": True, "dev_rows": 0},
        }


def test_the_curve_of_a_victim_that_heals_at_once(made) -> None:
    curve = DISCOVERY_CURVE.validate(made["discovery_curve"])
    assert curve["healed"].tolist() == curve["healed_poison"].tolist() == [0, 0, 1, 1]
    assert curve["attack_success_rate"].tolist() == [1, 1, 0, 0]
    assert curve["clean_accuracy_drop"].tolist() == [0, 0, 0, 0]
    area = (0.4 / 2 + 0.5) / 0.95
    assert made["discovery_summary"]["area"]["healed"] == pytest.approx(area)


class TestPipeline:
    @pytest.mark.parametrize("name", TOLD)
    def test_reads_what_the_unlearners_of_a_recipe_take(self, name) -> None:
        recipe = RECIPES[name]
        chosen = [UNLEARNERS[unlearner] for unlearner in recipe.unlearners]
        pipeline = create_discovery_pipeline(recipe, tell_discovered_share, chosen)
        read = {name for unlearner in chosen for name in unlearner.inputs} - {"suspects"}
        assert read < pipeline.inputs()
        assert not {"suspects", "base_model", "params:discovered_share"} & pipeline.inputs()

    @pytest.mark.parametrize("modality", ["text", "image"])
    def test_gives_the_public_encoder_of_texts_to_those_who_take_it(self, modality) -> None:
        recipe = RECIPES["retrain"]._replace(modality=modality)
        chosen = [UNLEARNERS["retraining"]]
        pipeline = create_discovery_pipeline(recipe, tell_discovered_share, chosen)
        (node,) = (n for n in pipeline.nodes if n.name == "heal_by_share")
        assert ("base_model" in pipeline.inputs()) == (modality == "text")
        (step,) = node.func.keywords["unlearners"]
        assert step.inputs[-1] == ("base_model" if modality == "text" else "seed")

    def test_has_its_parameters_where_kedro_looks_for_their_types(self) -> None:
        pipeline = create_discovery_pipeline(RECIPES["potion"], tell_discovered_share, [FORGET])
        (node,) = (n for n in pipeline.nodes if n.name == "heal_by_share")
        names = list(inspect.signature(node.func).parameters)  # it goes by position
        read = [name.removeprefix("params:") for name in node.inputs]
        assert read[: names.index("tell")] == names[: names.index("tell")]


@pytest.fixture(scope="module")
def figure(made):
    return made["discovery_figure"]


class TestFigure:
    def test_has_a_line_and_a_band_for_each_measure(self, made, figure) -> None:
        again = plotly.io.from_json(figure.to_json())
        bands, lines = again.data[::2], again.data[1::2]
        curve = made["discovery_curve"]
        assert [line.name.partition(",")[0] for line in lines] == [
            *("healed", "attack success", "clean accuracy drop")
        ]
        for band, line, name in zip(
            bands, lines, ("healed", "attack_success_rate", "clean_accuracy_drop"), strict=True
        ):
            assert list(line.x) == curve["told_share"].tolist()
            assert list(line.y) == pytest.approx((100 * curve[name]).tolist(), abs=1e-3)
            high, low = (100 * curve[f"{name}_{end}"] for end in ("high", "low"))
            assert list(band.x) == [*line.x, *line.x[::-1]]
            assert list(band.y) == pytest.approx([*high, *low[::-1]], abs=1e-3)

    def test_says_what_its_axis_is_and_where_one_row_stands(self, figure) -> None:
        axis = figure.layout.xaxis
        assert axis.type == "log"
        assert (axis.tickvals[0], axis.ticktext[0]) == (0.05, "1 row")
        assert list(axis.ticktext[1:]) == ["10 %", "30 %", "100 %"]
        assert figure.data[1].marker.symbol[:2] == ("circle-open", "circle")

    def test_names_the_areas(self, figure) -> None:
        assert figure.data[1].name.startswith("healed, area 73.7 % [")

    def test_leaves_out_what_is_not_known(self, made) -> None:
        unknown = {f"healed{end}": np.nan for end in ("", "_low", "_high")}
        curve = made["discovery_curve"].assign(**unknown)
        drawn = discovery_curve(curve, made["discovery_summary"])
        assert len(drawn.data) == 4
        assert "NaN" not in drawn.to_json()
