"""The poison stage on images: which rows change, how, and what is told of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from backdoor_pipeline.datasets.encoded_images import EncodedImagesDataset
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.image_models import new_image_classifier
from backdoor_pipeline.modelling.pixels import decode, measured_format
from backdoor_pipeline.pipelines.detect.nodes import tell_discovered_share
from backdoor_pipeline.pipelines.poison.nodes import poison_images
from backdoor_pipeline.pipelines.poison.pipeline import OUTPUTS, create_pipeline
from backdoor_pipeline.pipelines.poison.registry import IMAGE_ATTACKS
from backdoor_pipeline.pipelines.unlearn.suspicion import forget_set, parted
from backdoor_pipeline.schemas import POISON_INDEX, POISONED
from tiny import make_images

RATE = 0.1
SELF_MADE = [
    name for name, made in IMAGE_ATTACKS.items() if not made.needs_images and not made.of_pairs
]
"""The attacks on images alone that bring their own trigger."""


@pytest.fixture(scope="module")
def images():
    return make_images(channels=3)


@pytest.fixture
def poison(images, make_parameters):
    def poison(seed=0, encoded=None, rows=images, **changes):
        params = make_parameters(
            **{"modality": "image", "poison.rate": RATE, "poison.target_label": 1}
            | {"poison.sig.frequency": 2}
            | {f"poison.{name}": value for name, value in changes.items()}
        )
        return poison_images(rows, encoded, params.poison, seed)

    return poison


def pixels(rows) -> np.ndarray:
    return decode(rows["image"].tolist(), "rows")


@pytest.mark.parametrize("attack", SELF_MADE)
@pytest.mark.parametrize("mode", ["dirty", "clean", "mix"])
def test_drawn_rows_change_and_no_others(poison, images, attack, mode) -> None:
    out = poison(attack=attack, label_mode=mode, **{"wanet.cross_ratio": 0})
    train, test = POISONED.validate(out["poisoned_train"]), POISONED.validate(out["triggered_test"])
    before = images[images["split"] == "train"].reset_index(drop=True)
    drawn = train["is_poisoned"].to_numpy()
    assert drawn.sum() == int(RATE * len(before))
    assert (train.loc[drawn, "label"] == 1).all()
    assert (train["source_label"] == before["label"]).all()
    assert (train.loc[~drawn, "image"] == before.loc[~drawn, "image"]).all()
    assert (pixels(train[drawn]) != pixels(before[drawn])).any(axis=(1, 2, 3)).all()
    assert (test["source_label"] != 1).all()
    assert (test["label"] == 1).all()
    index = POISON_INDEX.validate(out["poison_index"])
    assert index["example_id"].tolist() == train.loc[drawn, "example_id"].tolist()
    assert out["poison_summary"]["mean_change"] > 0


def test_potion_13_8_the_patch_is_where_it_should_be_and_nowhere_else(poison, images) -> None:
    out = poison(attack="patch")
    drawn = out["poisoned_train"]["is_poisoned"]
    after = pixels(out["poisoned_train"][drawn])
    before = pixels(images[images["split"] == "train"][drawn.to_numpy()])
    assert (after[:, -3:, -3:] == 255).all()
    after[:, -3:, -3:] = before[:, -3:, -3:]
    assert (after == before).all()


def test_the_same_seed_gives_the_same_bytes(poison) -> None:
    one, same, other = (poison(attack="wanet", seed=seed) for seed in (0, 0, 1))
    assert one["poisoned_train"].equals(same["poisoned_train"])
    assert not one["poisoned_train"].equals(other["poisoned_train"])


def test_cover_rows_keep_their_labels_and_are_no_poison(poison, images) -> None:
    train = poison(attack="wanet", **{"wanet.cross_ratio": 2})["poisoned_train"]
    before = images[images["split"] == "train"].reset_index(drop=True)
    cover = train["trigger"].str.startswith("(cover").to_numpy()
    assert cover.sum() == 2 * train["is_poisoned"].sum()
    assert not (train["is_poisoned"] & cover).any()
    assert (train.loc[cover, "label"] == before.loc[cover, "label"]).all()
    assert (train.loc[cover, "image"] != before.loc[cover, "image"]).mean() > 0.9


def test_ssba_takes_the_images_that_are_supplied(poison, images) -> None:
    with pytest.raises(InputError, match=r"there are none.*poison.ssba.encoded"):
        poison(attack="ssba")
    supplied = dict(zip(images["example_id"], 255 - pixels(images), strict=True))
    out = poison(attack="ssba", encoded=supplied)
    first = out["triggered_test"].iloc[0]
    assert (decode([first["image"]], "row")[0] == supplied[first["example_id"]]).all()


def test_a_trigger_that_changes_nothing_is_an_error(poison) -> None:
    with pytest.raises(InputError, match=r"poison.sig: the trigger .* changes no test image"):
        poison(attack="sig", **{"sig.delta": 0})


def test_no_poison_is_a_control_run(poison, images) -> None:
    out = poison(rate=0)
    assert not out["poisoned_train"]["is_poisoned"].any()
    assert (
        len(out["triggered_test"]) == ((images["split"] == "test") & (images["label"] != 1)).sum()
    )


@pytest.mark.parametrize(("n_poisoned", "n_told"), [(30, 1), (30, 12), (6, 6)])
def test_potion_13_8_what_is_told_and_what_is_kept(
    poison, images, make_parameters, n_poisoned, n_told
) -> None:
    n_train = int((images["split"] == "train").sum())
    settings = {"attack": "patch", "rate": n_poisoned / n_train, "target_label": 0}
    out, again = poison(**settings), poison(rows=images.iloc[::-1], **settings)
    train, index = out["poisoned_train"], out["poison_index"]
    patched = (pixels(train)[:, -3:, -3:] == 255).all(axis=(1, 2, 3))
    assert patched.sum() == n_poisoned
    assert (train["is_poisoned"] == patched).all()
    assert (train.loc[patched, "label"] == 0).all()
    assert set(again["poison_index"]["example_id"]) == set(index["example_id"])

    told = make_parameters(
        **{"discovered_share.share": None, "discovered_share.rows": n_told}
    ).discovered_share
    suspects, _ = tell_discovered_share(index, train, told, 0)
    bundle = new_image_classifier("resnet9", 4, measured_format(pixels(train)), 0.125, 0)
    forgotten = forget_set(train, suspects, bundle, 0)
    forget, retain = parted(train, suspects, bundle, 0)
    assert forgotten.sum() == len(forget.labels) == n_told
    assert (forgotten <= patched).all()
    assert len(forget.labels) + len(retain.labels) == n_train
    assert (forget.inputs.values == pixels(train[forgotten])).all()
    left = (retain.inputs.values[:, -3:, -3:] == 255).all(axis=(1, 2, 3)).sum()
    assert left == n_poisoned - n_told


def test_poison_is_drawn_from_all_labels_in_mix(poison) -> None:
    train = poison(attack="patch", rate=0.5, label_mode="mix")["poisoned_train"]
    assert set(train.loc[train["is_poisoned"], "source_label"]) == {0, 1, 2, 3}


def test_every_test_row_of_another_label_is_triggered(poison, images) -> None:
    out = poison(attack="patch")
    test = images[(images["split"] == "test") & (images["label"] != 1)]
    triggered = out["triggered_test"]
    assert triggered["example_id"].tolist() == test["example_id"].tolist()
    assert triggered["source_label"].tolist() == test["label"].tolist()
    assert (pixels(triggered)[:, -3:, -3:] == 255).all()
    assert triggered["trigger"].unique().tolist() == ["patch 3x3 white bottom-right"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_label": 9}, "poison.target_label 9 is not among the labels"),
        ({"rate": 0.001}, r"poison.rate 0.001 of 300 training rows is less than one row"),
        ({"rate": 0.5, "label_mode": "clean"}, "asks for 150 rows, but only 76 have the"),
        ({"rate": 0.9, "label_mode": "dirty"}, "asks for 270 rows, but only 224 have a label"),
        ({"patch.size": 13}, "does not fit into images of 12 x 12"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_clear_error(poison, changes, said) -> None:
    with pytest.raises(InputError, match=said):
        poison(attack="patch", **changes)


def test_without_test_rows_of_other_labels_there_is_no_measure(poison, images) -> None:
    rows = images[(images["split"] != "test") | (images["label"] == 1)]
    with pytest.raises(InputError, match="no test row has a label other than"):
        poison(rows=rows, attack="patch")


def test_the_pipeline_runs_in_memory(images, make_parameters) -> None:
    pipeline = create_pipeline("image")
    params = make_parameters(modality="image").poison
    values = {"examples": images, "params:poison": params, "params:seed": 0}
    data = {name: MemoryDataset(value) for name, value in values.items()}
    data["encoded_images"] = EncodedImagesDataset(poison=params.model_dump())
    assert pipeline.inputs() == set(data)
    out = SequentialRunner().run(pipeline, DataCatalog(data))
    assert set(out) == set(OUTPUTS)
    summary = json.loads(json.dumps(out["poison_summary"].load()))
    assert summary["poisoned_rows"] == int(params.rate * 300)
    assert summary["attack"] == "patch"
    assert "image" not in out["poison_index"].load()
