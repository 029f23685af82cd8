"""The images that an attack needs from the user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kedro.io.core import DatasetError

from backdoor_pipeline.datasets.encoded_images import EncodedImagesDataset
from backdoor_pipeline.modelling.pixels import decode
from tiny import make_images


def dataset(encoded: Path | str | None, attack: str = "ssba") -> EncodedImagesDataset:
    settings: dict[str, Any] = {"encoded": None if encoded is None else str(encoded)}
    return EncodedImagesDataset(poison={"attack": attack, "ssba": settings})


@pytest.fixture
def images() -> pd.DataFrame:
    return make_images(n_train=6, n_dev=0, n_test=0)[["example_id", "image"]]


def test_images_are_decoded_by_their_id(images: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "encoded.parquet"
    images.iloc[::-1].assign(more="x").to_parquet(path)
    loaded = dataset(path).load()
    assert sorted(loaded) == list(range(6))
    expected = decode(images["image"].tolist(), "images")
    np.testing.assert_array_equal(np.stack([loaded[i] for i in range(6)]), expected)


def test_other_attacks_need_none(tmp_path: Path) -> None:
    assert dataset(tmp_path / "none.parquet", attack="patch").load() is None
    assert dataset(None).load() is None


def test_bad_tables_give_one_clear_error(images: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "encoded.parquet"
    with pytest.raises(DatasetError, match=f"poison.ssba.encoded {path}: is no readable parquet"):
        dataset(path).load()
    path.write_text("no table")
    with pytest.raises(DatasetError, match="is no readable parquet table with the columns"):
        dataset(path).load()
    images[["image"]].to_parquet(path)
    with pytest.raises(DatasetError, match="example_id and image"):
        dataset(path).load()
    images.assign(image=b"no image").to_parquet(path)
    with pytest.raises(DatasetError, match=f"{path}, example_id 0: these 8 bytes are neither"):
        dataset(path).load()


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([0, 1, 2, 1, 4, 5], "row 4: the example_id 1 stands in an earlier row, too; delete one"),
        ([0, 1, None, 3, 4, 5], "row 3: has no example_id; fill it in, or delete the row"),
        (list("abcdef"), "the column example_id holds (object|str), not whole numbers"),
        ([0.5, 1, 2, 3, 4, 5], "the column example_id holds float64, not whole numbers"),
    ],
)
def test_every_image_has_an_id_of_its_own(images, tmp_path: Path, ids, said) -> None:
    path = tmp_path / "encoded.parquet"
    images.assign(example_id=ids).to_parquet(path)
    with pytest.raises(DatasetError, match=f"poison.ssba.encoded {path}(, |: ){said}"):
        dataset(path).load()


def test_it_is_read_only_and_always_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="read only"):
        dataset(tmp_path / "x.parquet").save({})
    assert dataset(tmp_path / "x.parquet").exists()
