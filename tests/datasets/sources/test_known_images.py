"""Known sets of images, found by their name below the folder of known sets."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from backdoor_pipeline.datasets import sources
from backdoor_pipeline.datasets.sources import SourceParams
from backdoor_pipeline.datasets.sources.known import KNOWN
from backdoor_pipeline.errors import InputError
from tiny import make_images


def params(folder: Path, dataset: str = "cifar10", **changes: object) -> SourceParams:
    given = {"dataset": dataset, "folder": str(folder), "text": "text", "label": "label"}
    return SourceParams(**(given | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny set under the name of CIFAR-10."""
    images = make_images(n_train=12, n_dev=0, n_test=8, channels=3)
    place = tmp_path / "images" / "cifar10"
    place.mkdir(parents=True)
    for split, rows in images.groupby("split"):
        own = rows[["image", "label"]].assign(class_name="class " + rows["label"].astype(str))
        own.to_parquet(place / f"{split}.parquet")
    return tmp_path


def test_a_set_is_read_from_the_folder_of_its_name(folder: Path) -> None:
    source = sources.read(params(folder))
    assert source.name == "cifar10" and source.known is KNOWN["cifar10"]
    assert {split: len(rows) for split, rows in source.tables.items()} == {"train": 12, "test": 8}
    assert set(source.files) == {"train.parquet", "test.parquet"}
    assert source.label_names == tuple(f"class {i}" for i in range(4))
    assert not source.repaired


@pytest.mark.parametrize(("variant", "repaired"), [("@paper", False), ("@repaired", True)])
def test_a_variant_is_of_the_same_set(folder: Path, variant: str, repaired: bool) -> None:
    source = sources.read(params(folder, f"cifar10{variant}"))
    assert (source.name, source.repaired) == ("cifar10", repaired)


def test_the_digest_is_that_of_the_files_wherever_they_are(folder: Path, tmp_path: Path) -> None:
    before = sources.digest(params(folder))
    assert len(before) == 64
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (folder / "images").rename(moved / "images")
    assert sources.digest(params(moved)) == before
    path = moved / "images" / "cifar10" / "train.parquet"
    pd.read_parquet(path).iloc[1:].to_parquet(path)
    assert sources.digest(params(moved)) != before


def test_a_set_that_is_not_there(tmp_path: Path) -> None:
    assert sources.digest(params(tmp_path)) == "missing"
    with pytest.raises(InputError, match="images/cifar10"):
        sources.read(params(tmp_path))


def test_the_label_may_stand_in_another_column(folder: Path) -> None:
    source = sources.read(params(folder, label="class_name"))
    assert set(source.tables["train"]["label"]) == {f"class {i}" for i in range(4)}


def test_own_data_and_a_known_set_are_two_sources(folder: Path) -> None:
    with pytest.raises(InputError, match="name two sources"):
        sources.read(params(folder, data=str(folder)))
