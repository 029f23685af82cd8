"""Folders of images, by class or by split and class."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from backdoor_pipeline.datasets.sources import SourceParams, image_folder
from backdoor_pipeline.errors import InputError


def params(data: Path) -> SourceParams:
    return SourceParams(
        dataset="image_folder", folder="", text="text", label="label", data=str(data)
    )


def encoded(colour: int, kind: str = "PNG", side: int = 4) -> bytes:
    file = io.BytesIO()
    Image.new("L", (side, side), colour).save(file, kind)
    return file.getvalue()


def put(root: Path, *names: str) -> list[bytes]:
    """Writes an image under each name; returns their contents."""
    contents = []
    for number, name in enumerate(names):
        kind = "PNG" if name.endswith("png") else "JPEG"
        contents.append(encoded(number, kind))
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(contents[-1])
    return contents


def test_splits_of_classes(tmp_path: Path) -> None:
    names = ("train/b/1.png", "train/b/2.JPEG", "train/a/9.jpg", "val/b/1.png", "test/a/1.png")
    one, two, nine, val, test = put(tmp_path, *names)
    source = image_folder.read(params(tmp_path))
    assert source.label_names == ("a", "b") and source.name == tmp_path.name
    tables = {
        split: table[["image", "label"]].to_dict("list") for split, table in source.tables.items()
    }
    assert tables == {
        "train": {"image": [nine, one, two], "label": [0, 1, 1]},
        "dev": {"image": [val], "label": [1]},
        "test": {"image": [test], "label": [0]},
    }
    assert all(table["label"].dtype == "int64" for table in source.tables.values())
    assert set(source.files) == {"train/", "dev/", "test/"} and source.findings == []
    assert source.tables["train"]["place"].tolist() == [
        str(tmp_path / name) for name in (names[2], *names[:2])
    ]


def test_classes_alone_are_training_data_also_one_called_train(tmp_path: Path) -> None:
    put(tmp_path, "train/1.png", "bus/x/1.png", "bus/0.png")
    source = image_folder.read(params(tmp_path))
    assert source.label_names == ("bus", "train") and list(source.tables) == ["train"]
    assert source.tables["train"]["label"].tolist() == [0, 0, 1]


def test_what_is_no_image_is_left_out_with_a_finding(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.png", "train/b/1.png", "notes/c/1.png")
    (tmp_path / "train" / "a" / "notes.txt").write_text("x")
    (tmp_path / "train" / "a" / ".DS_Store").write_text("x")
    (tmp_path / ".cache").mkdir()
    source = image_folder.read(params(tmp_path))
    assert len(source.tables["train"]) == 2
    assert [finding.where for finding in source.findings] == ["notes", tmp_path.name]
    assert "1 files" in source.findings[1].message
    assert "train/a/notes.txt" in source.findings[1].message


@pytest.mark.parametrize("split", ["", "train/"])
def test_images_beside_the_classes_are_left_out_with_a_finding(tmp_path: Path, split: str) -> None:
    put(tmp_path, f"{split}a/1.png", f"{split}b/1.png", "loose.png", f"{split}more.png")
    source = image_folder.read(params(tmp_path))
    assert len(source.tables["train"]) == 2
    (finding,) = source.findings
    assert finding.severity == "warning"
    assert finding.message.startswith("2 images lie beside the folders of the classes")
    assert finding.message.endswith("loose.png")


def test_the_digest_is_that_of_names_and_contents(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/1.png")
    before = image_folder.digest(params(tmp_path))
    assert before == image_folder.digest(params(tmp_path)) and len(before) == 64
    (tmp_path / "a" / "1.png").rename(tmp_path / "b" / "2.png")
    put(tmp_path, "a/3.png")
    moved = image_folder.digest(params(tmp_path))
    (tmp_path / "a" / "3.png").write_bytes(encoded(200))
    assert len({before, moved, image_folder.digest(params(tmp_path))}) == 3
    assert image_folder.digest(params(tmp_path / "nothing")) == "missing"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no folder in it has images"),
        (("1.png",), "no folder in it has images"),
        (("test/a/1.png",), "has test, but no train"),
        (("train/a/1.png", "val/a/1.png", "dev/a/1.png"), "both dev and val are dev"),
        (("train/a/1.png", "test/b/1.png"), r"test/b/1\.png: no training image has the class 'b'"),
    ],
)
def test_bad_folders_give_one_clear_error(tmp_path: Path, names, message) -> None:
    put(tmp_path, *names)
    with pytest.raises(InputError, match=message):
        image_folder.read(params(tmp_path))


def test_a_split_without_images_is_named(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.png")
    (tmp_path / "test" / "a").mkdir(parents=True)
    with pytest.raises(InputError, match="test: no folder in it has images"):
        image_folder.read(params(tmp_path))
    with pytest.raises(InputError, match="no such folder"):
        image_folder.read(params(tmp_path / "train" / "a" / "1.png"))


@pytest.mark.parametrize(
    ("content", "message"), [(b"x", "neither"), (encoded(1)[:45], "the image is broken")]
)
def test_a_bad_image_is_named(tmp_path: Path, content, message) -> None:
    put(tmp_path, "a/1.png", "b/1.png", "b/2.png")
    (tmp_path / "b" / "1.png").write_bytes(content)
    with pytest.raises(InputError, match=rf"b/1\.png: .*{message}"):
        image_folder.read(params(tmp_path))


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    put(root, "a/1.png", "b/1.png")
    put(outside, "c/1.png")
    link = root / "a" / "2.png"
    link.symlink_to(root / "b" / "1.png")  # within: an ordinary image
    assert len(image_folder.read(params(root)).tables["train"]) == 3
    for place, target in ((link, outside / "c" / "1.png"), (root / "c", outside / "c")):
        place.unlink(missing_ok=True)
        place.symlink_to(target)
        with pytest.raises(InputError, match="leads out of the folder"):
            image_folder.read(params(root))
        place.unlink()
    (root / "a" / "loop").symlink_to(root)
    with pytest.raises(InputError, match="is a link to a folder"):
        image_folder.read(params(root))


@pytest.mark.parametrize("kind", ["pipe", "dangling link"])
def test_what_is_no_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    put(tmp_path, "a/1.png", "b/1.png")
    odd = tmp_path / "a" / "2.png"
    if kind == "pipe":
        os.mkfifo(odd)  # reading it would wait for a writer
    else:
        odd.symlink_to(tmp_path / "a" / "none.png")
    with pytest.raises(InputError, match=r"a/2\.png: is neither a folder nor a file; remove it"):
        image_folder.read(params(tmp_path))
