"""The poison stage on images: which rows change, how, and what is told of it."""

from __future__ import annotations

import numpy as np
import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.pixels import decode
from backdoor_pipeline.pipelines.poison.nodes import poison_images
from backdoor_pipeline.pipelines.poison.registry import IMAGE_ATTACKS
from backdoor_pipeline.schemas import POISON_INDEX, POISONED
from tiny import make_images

RATE = 0.1


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


@pytest.mark.parametrize("attack", [name for name in IMAGE_ATTACKS if name != "ssba"])
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
