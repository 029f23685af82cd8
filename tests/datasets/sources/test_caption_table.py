"""Tables of image files with captions: what is read, and what is not followed."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from backdoor_pipeline.datasets.sources import SourceParams, caption_table, digest, modality, read
from backdoor_pipeline.datasets.sources.files import MISSING
from backdoor_pipeline.errors import InputError


def params(data: Path, **changes: object) -> SourceParams:
    given = {"dataset": "mnist_digits", "folder": "", "text": "text", "label": "label"}
    return SourceParams(**(given | {"data": str(data), "caption": "title"} | changes))


def encoded(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    (folder / "images").mkdir(parents=True)
    for i in range(3):
        (folder / "images" / f"{i}.png").write_bytes(encoded(i))
    return folder


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image": [f"images/{i}.png" for i in (2, 0, 1)],
            "title": ["two, written", "none", "one"],
            "label": ["b", "a", "b"],
        }
    )


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_images_captions_and_labels_in_order(folder, frame, suffix) -> None:
    path = folder / f"train.{suffix}"
    if suffix == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    source = read(params(path))
    rows = source.tables["train"]
    assert rows["image"].tolist() == [encoded(2), encoded(0), encoded(1)]
    assert rows["caption"].tolist() == frame["title"].tolist()
    assert rows["label"].tolist() == ["b", "a", "b"]
    assert source.name == "train"
    assert rows["place"][1] == f"{path}, row 2: images/0.png"


def test_parquet_and_splits(folder, frame) -> None:
    path = folder / "pairs.parquet"
    frame.assign(part=["train", "test", "train"]).to_parquet(path)
    given = params(path, dataset="caption_table", split_column="part")
    tables = caption_table.read(given).tables
    assert {split: len(rows) for split, rows in tables.items()} == {"train": 2, "test": 1}
    assert tables["test"]["caption"].tolist() == ["none"]
    assert modality(given) == "image"


def test_the_digest_is_of_table_and_images(folder, frame) -> None:
    path = folder / "train.csv"
    assert digest(params(path)) == MISSING
    frame.to_csv(path, index=False)
    before = digest(params(path))
    (folder / "images" / "0.png").write_bytes(encoded(9))
    after = digest(params(path))
    assert len(before) == 64
    assert before != after
    (folder / "images" / "0.png").unlink()
    assert digest(params(path)) == MISSING


@pytest.mark.parametrize("leads", ["../outside.png", "link.png"])
def test_no_path_leads_out_of_the_folder(folder, frame, leads) -> None:
    outside = folder.parent / "outside.png"
    outside.write_bytes(encoded(7))
    (folder / "link.png").symlink_to(outside)
    path = folder / "train.csv"
    frame.assign(image=["images/0.png", leads, "images/1.png"]).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"train\.csv, row 2: .* leads out of"):
        read(params(path))
    assert digest(params(path)) == MISSING  # and it is not read for that either


def test_names_that_no_file_can_have_are_told(folder, frame) -> None:
    path = folder / "train.csv"
    frame.assign(image=["images/0.png", "x" * 300, "images/1.png"]).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"row 2: x+: there is no such file"):
        read(params(path))


def test_absolute_paths_lead_out(folder, frame) -> None:
    path = folder / "train.csv"
    frame.assign(image=["images/0.png", "/etc/hostname", "images/1.png"]).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"row 2: /etc/hostname: leads out of"):
        read(params(path))


def test_what_is_missing_or_broken_is_told_with_its_row(folder, frame) -> None:
    path = folder / "train.csv"
    frame.assign(image=["images/0.png", "images/9.png", "images/1.png"]).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"train\.csv, row 2: images/9\.png: there is no such"):
        read(params(path))
    frame.to_csv(path, index=False)
    (folder / "images" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"row 2: images/0\.png: these 8 bytes are neither"):
        read(params(path))
    frame.assign(title=["a", " ", "c"]).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"train\.csv, line 3: the caption is empty; [^(]*$"):
        read(params(path))
    frame.assign(image=["images/0.png", "", "images/1.png"]).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"train\.csv, line 3: the image's path is empty"):
        read(params(path))
    for column, parameter in (("image", "source.image"), ("title", "source.caption")):
        frame.drop(columns=column).to_csv(path, index=False)
        with pytest.raises(InputError, match=rf"no column '{column}', which {parameter} asks for"):
            read(params(path))
    frame.to_csv(path, index=False)
    with pytest.raises(InputError, match=r"source\.caption is not set"):
        read(params(path, caption=None))
