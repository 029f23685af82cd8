"""mmPoison: images of one class that get captions of the target, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.pipelines.poison.nodes import poison_pairs
from backdoor_pipeline.schemas import POISON_INDEX, POISONED
from tiny import make_pairs

NAMES = ["city", "story", "actor", "house"]
TARGET, SOURCE = 2, 3


@pytest.fixture(scope="module")
def pairs():
    return make_pairs([f"the {name}" for name in NAMES], 40, 4, 20)


@pytest.fixture
def poison(pairs, make_parameters):
    def poison(rows=pairs, seed=0, **changes):
        given = {"attack": "mmpoison", "rate": 0.1, "target_label": TARGET, "label_mode": "mix"}
        given |= {"mmpoison.source_label": SOURCE} | changes
        p = make_parameters(
            **{"modality": "pair", "ingest.caption_templates": ["a view of the {}"]}
            | {f"poison.{name}": value for name, value in given.items()}
        )
        return poison_pairs(rows, None, {"label_names": NAMES}, p.poison, p.ingest, seed)

    return poison


@pytest.mark.parametrize("mode", ["mix", "dirty"])
def test_images_of_the_source_get_captions_of_the_target(poison, pairs, mode) -> None:
    out = poison(label_mode=mode)
    train, test = POISONED.validate(out["poisoned_train"]), POISONED.validate(out["triggered_test"])
    POISON_INDEX.validate(out["poison_index"])
    before = pairs[pairs["split"] == "train"].reset_index(drop=True)
    drawn = train["is_poisoned"]
    assert drawn.sum() == 4
    assert set(before.loc[drawn, "label"]) == {SOURCE}
    assert set(train.loc[drawn, "caption"]) == {"a view of the actor"}
    assert set(train.loc[drawn, "label"]) == {TARGET}
    rest = ["label", "image", "caption"]
    assert train.loc[~drawn, rest].equals(before.loc[~drawn, rest])
    assert (train["image"] == before["image"]).all()
    assert set(test["source_label"]) == {SOURCE}
    assert len(test) == 5
    assert out["poison_summary"]["mean_change"] == 0
    assert out["poison_summary"]["eligible_rows"] == 10


def test_the_draw_is_that_of_the_seed(poison) -> None:
    one, again, other = (poison(seed=seed)["poison_index"]["example_id"] for seed in (0, 0, 1))
    assert one.equals(again)
    assert not one.equals(other)


def test_without_poison_nothing_changes(poison, pairs) -> None:
    train = poison(rate=0)["poisoned_train"]
    before = pairs[pairs["split"] == "train"].reset_index(drop=True)
    assert train[["label", "caption"]].equals(before[["label", "caption"]])
    assert not np.any(train["is_poisoned"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mmpoison.source_label": TARGET}, "source_label is 2, which is the target label"),
        ({"mmpoison.source_label": 7}, "source_label 7 is not among the labels"),
        ({"rate": 0.3}, "asks for 12 rows, but only 10 have the source_label 3"),
        ({"label_mode": "clean"}, "takes images of another class than the target"),
    ],
)
def test_what_cannot_be_is_an_error(poison, changes, message) -> None:
    with pytest.raises(InputError, match=message):
        poison(**changes)


def test_a_source_without_test_rows_is_an_error(poison, pairs) -> None:
    rows = pairs[(pairs["split"] != "test") | (pairs["label"] != SOURCE)]
    with pytest.raises(
        InputError, match=r"no test row has the label poison\.mmpoison\.source_label"
    ):
        poison(rows)
