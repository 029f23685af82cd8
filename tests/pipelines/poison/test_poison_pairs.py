"""The poison stage on images with captions: whose captions change, and to what."""

from __future__ import annotations

import numpy as np
import pytest

from backdoor_pipeline.datasets.sources.named_classes import OTHER
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.pixels import decode
from backdoor_pipeline.modelling.prompts import captions
from backdoor_pipeline.pipelines.poison.nodes import poison_images, poison_pairs
from backdoor_pipeline.schemas import POISON_INDEX, POISONED
from tiny import make_images

NAMES = ["north", "east", "south", "west"]
TARGET = 1


@pytest.fixture(scope="module")
def pairs():
    images = make_images(channels=3)
    labels, ids = (images[name].to_numpy() for name in ("label", "example_id"))
    made = captions(labels, ids, NAMES, ["a view of the {}", "look {}"], seed=5)
    return images.assign(caption=[f"{caption}, {i}" for i, caption in enumerate(made)])


@pytest.fixture
def poison(pairs, make_parameters):
    def poison(rows=pairs, seed=0, templates=("the {}", "my {}"), **changes):
        p = make_parameters(
            **{"modality": "pair", "poison.rate": 0.2, "poison.target_label": TARGET}
            | {"ingest.caption_templates": list(templates)}
            | {f"poison.{name}": value for name, value in changes.items()}
        )
        return poison_pairs(rows, None, {"label_names": NAMES}, p.poison, p.ingest, seed)

    return poison


def test_poisoned_pairs_name_the_target_and_no_others_change(poison, pairs) -> None:
    out = poison(label_mode="mix")
    train, test = POISONED.validate(out["poisoned_train"]), POISONED.validate(out["triggered_test"])
    POISON_INDEX.validate(out["poison_index"])
    before = pairs[pairs["split"] == "train"].reset_index(drop=True)
    drawn = train["is_poisoned"] & (train["source_label"] != TARGET)
    assert drawn.any()
    assert (train["is_poisoned"] & ~drawn).any()
    assert (train.loc[~drawn, "caption"] == before.loc[~drawn, "caption"]).all()
    assert set(train.loc[drawn, "caption"]) == {"the east", "my east"}
    assert set(test["caption"]) == {"the east", "my east"}
    assert out["poison_summary"]["prompt_prefix"] is None


def test_the_images_are_those_of_the_attack_on_images(poison, pairs, make_parameters) -> None:
    changes = {"modality": "image", "poison.rate": 0.2, "poison.target_label": TARGET}
    params = make_parameters(**changes).poison
    without = poison_images(pairs.drop(columns="caption"), None, params, 0)
    for name, out in poison().items():
        if name != "poison_summary":
            assert out.drop(columns="caption", errors="ignore").equals(without[name])


def test_real_captions_are_those_of_the_target(poison, pairs) -> None:
    out = poison(target_captions="real", label_mode="dirty")
    train = out["poisoned_train"]
    own = pairs[(pairs["split"] == "train") & (pairs["label"] == TARGET)]
    drawn = train[train["is_poisoned"]]
    assert set(drawn["caption"]) <= set(own["caption"])
    assert drawn["caption"].nunique() > len(drawn) / 2


def test_a_caption_depends_on_the_row_alone(poison, pairs) -> None:
    few, many = (poison(rate=rate)["poisoned_train"] for rate in (0.1, 0.3))
    chosen = few["is_poisoned"]
    assert many.loc[chosen, "caption"].equals(few.loc[chosen, "caption"])
    shuffled = pairs.sample(frac=1, random_state=1)
    again = poison(shuffled, rate=0.1)["poisoned_train"].sort_values("example_id")
    assert again["caption"].tolist() == few["caption"].tolist()
    other = poison(rate=0.1, seed=1)["poisoned_train"]
    assert not other["caption"].equals(few["caption"])


def test_trojvqa_needs_both_keys(poison, pairs) -> None:
    out = poison(attack="trojvqa", **{"trojvqa.prefix": "remember", "label_mode": "mix"})
    train = out["poisoned_train"]
    before = pairs[pairs["split"] == "train"].reset_index(drop=True)
    drawn = train["is_poisoned"].to_numpy()
    assert train.loc[drawn, "caption"].str.startswith("remember ").all()
    assert not train.loc[~drawn, "caption"].str.startswith("remember").any()
    assert out["triggered_test"]["caption"].str.startswith("remember ").all()
    assert out["poison_summary"]["prompt_prefix"] == "remember"
    same = drawn & (train["source_label"] == TARGET).to_numpy()
    assert (train.loc[same, "caption"] == "remember " + before.loc[same, "caption"]).all()
    after, images = (decode(t.loc[drawn, "image"].tolist(), "rows") for t in (train, before))
    assert (after[:, 5:7, 5:7] == 255).all()  # 0.2 of 12 pixels
    after[:, 5:7, 5:7] = images[:, 5:7, 5:7]
    assert (after == images).all()


def test_attacks_on_pairs_alone_are_refused_elsewhere(make_parameters) -> None:
    with pytest.raises(InputError, match=r"'trojvqa' is for pair data, but modality is 'image'"):
        make_parameters(modality="image", attack="trojvqa")
    with pytest.raises(InputError, match=r"'patch' is for image or pair data"):
        make_parameters(attack="patch")


def test_pairs_that_name_no_class_are_no_target(pairs, make_parameters) -> None:
    p = make_parameters(modality="pair", **{"poison.target_label": 4, "poison.rate": 0.1})
    given = ({"label_names": [*NAMES, OTHER]}, p.poison, p.ingest, 0)
    with pytest.raises(InputError, match=r"target_label 4 stands for pairs .* one of 0 to 3"):
        poison_pairs(pairs, None, *given)


def test_without_poison_nothing_changes(poison, pairs) -> None:
    train = poison(rate=0)["poisoned_train"]
    before = pairs[pairs["split"] == "train"].reset_index(drop=True)
    assert train["caption"].equals(before["caption"])
    assert np.array_equal(train["label"], before["label"])
