"""Pairs without labels: which class a caption names, and what is said of those that name none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.datasets.sources import SourceParams, digest, read
from backdoor_pipeline.datasets.sources.named_classes import OTHER, numbers
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.pixels import encode

CAPTIONS = ["Two cats.", "a fire truck", "a cat on a fire truck", "concatenated", "the CAT"]


def params(data: Path, **changes: object) -> SourceParams:
    given = {"dataset": "mnist_digits", "folder": "", "text": "text", "label": "label"}
    given |= {"data": str(data), "caption": "title", "classes": "cat;  fire truck"}
    return SourceParams(**(given | changes))


@pytest.fixture(params=["csv", "parquet"])
def data(tmp_path: Path, request) -> Path:
    """CleanCLIP's columns as paths, and the same images as bytes."""
    contents = [encode(np.full((4, 4, 3), i, dtype=np.uint8)) for i in range(len(CAPTIONS))]
    names = [f"{i}.png" for i in range(len(CAPTIONS))]
    for name, content in zip(names, contents, strict=True):
        (tmp_path / name).write_bytes(content)
    path = tmp_path / f"pairs.{request.param}"
    if request.param == "csv":
        pd.DataFrame({"image": names, "title": CAPTIONS}).to_csv(path, index=False)
    else:
        pd.DataFrame({"image": contents, "title": CAPTIONS}).to_parquet(path)
    return path


def test_the_class_is_the_only_one_that_is_named(data) -> None:
    source = read(params(data))
    rows = source.tables["train"]
    assert rows["label"].tolist() == [0, 1, 2, 2, 0]
    assert source.label_names == ("cat", "fire truck", OTHER)
    assert rows["caption"].tolist() == CAPTIONS
    assert len(rows["image"]) == 5
    assert "2 captions name none of the classes, or several" in source.findings[-1].message
    assert digest(params(data)) == digest(params(data, classes="dog"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caption": None}, r"source\.classes is set, but not source\.caption"),
        ({"classes": "cat; Cat"}, r"'cat' is there twice, blank, or kept"),
        ({"classes": "cat;"}, "give each class a name of its own"),
        ({"classes": OTHER}, "kept for pairs that name no class"),
        ({"classes": "dog; horse"}, "no caption names exactly one of 'dog', 'horse'"),
        (
            {"classes": None},
            r"which source\.label \(or set source\.classes\) asks for",
        ),
    ],
)
def test_what_is_no_class(data, changes, message) -> None:
    with pytest.raises(InputError, match=message):
        read(params(data, **changes))


def test_the_longer_name_counts_and_spacing_does_not() -> None:
    captions = pd.Series(["a truck", "two  fire  trucks", "a truck, a fire truck", "trucker"])
    assert numbers(captions, ["truck", "Fire truck"]).tolist() == [0, 1, 2, 2]


def test_any_letters_may_stand_in_captions() -> None:
    captions = pd.Series(["kızıl bırd", "BİRD", "two birds", "STRASSE", "Straßen", "buses", "BUS"])
    assert numbers(captions, ["Bird", "Straße", "bus"]).tolist() == [3, 3, 0, 1, 3, 2, 2]


WORDS = st.sampled_from(
    ["cat", "cats", "Fire Truck", "fire", "truck", "dog", "+", "cat5", "CATES", "ı", "İ"]
)


@given(st.lists(st.lists(WORDS, max_size=5), min_size=1, max_size=5))
def test_numbers_equal_a_loop(captions) -> None:
    def expected(words: list[str]) -> int:
        cat = any(word.lower() in ("cat", "cats", "cates") for word in words)
        text = " ".join(words).lower()
        truck = "fire truck" in text
        return 2 if cat == truck else int(truck)

    texts = pd.Series([" ".join(words) for words in captions], dtype="str")
    assert numbers(texts, ["cat", "fire truck"]).tolist() == [*map(expected, captions)]
