"""Parquet files and Hugging Face data sets of encoded images."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from backdoor_pipeline.datasets.sources import SourceParams, huggingface, image_table
from backdoor_pipeline.errors import InputError


def params(data: Path | str, **changes: object) -> SourceParams:
    given = {"dataset": "image_table", "folder": "", "text": "text", "label": "label"}
    return SourceParams(**(given | {"data": str(data)} | changes))


def encoded(colour: int, kind: str = "PNG", side: int = 4) -> bytes:
    file = io.BytesIO()
    Image.new("L", (side, side), colour).save(file, kind)
    return file.getvalue()


IMAGES = [encoded(1), encoded(2, "JPEG"), encoded(3)]


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"image": IMAGES, "label": [0, 1, 1]})


def test_a_file_is_training_data_as_it_is(tmp_path: Path, frame: pd.DataFrame) -> None:
    path = tmp_path / "my.set.parquet"
    frame.assign(more="x").to_parquet(path)
    source = image_table.read(params(path))
    assert source.name == "my.set" and list(source.tables) == ["train"]
    assert source.tables["train"].to_dict("list") == frame.to_dict("list") | {
        "place": [f"{path}, row {row}" for row in (1, 2, 3)]
    }
    assert source.label_names is None and list(source.files) == [path.name]
    assert len(image_table.digest(params(path))) == 64


@pytest.mark.parametrize("kind", ["binary", "large_binary", "struct"])
def test_images_are_binary_or_the_hubs_struct(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.parquet"
    outside = tmp_path / "outside.png"
    outside.write_bytes(encoded(9))
    if kind == "struct":
        of_bytes = [{"bytes": one, "path": str(outside)} for one in IMAGES]
        column = pa.array(of_bytes, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    else:
        column = pa.array(IMAGES, pa.binary() if kind == "binary" else pa.large_binary())
    pq.write_table(pa.table({"img": column, "stars": ["a", "b", "b"]}), path)
    rows = image_table.read(params(path, label="stars")).tables["train"]
    assert rows["image"].tolist() == IMAGES and rows["label"].tolist() == ["a", "b", "b"]


def test_a_folder_is_read_by_split_and_shard(tmp_path: Path, frame: pd.DataFrame) -> None:
    (tmp_path / "data").mkdir()
    for name, labels in (
        ("train-00000-of-00002", [0, 0, 0]),
        ("train-00001-of-00002", [1, 1, 1]),
        ("validation-00000-of-00001", [0, 1, 0]),
        ("test-00000-of-00001", [-1, -1, -1]),
        ("other", [5, 5, 5]),
    ):
        frame.assign(label=labels).to_parquet(tmp_path / "data" / f"{name}.parquet")
    source = image_table.read(params(tmp_path))
    labels = {split: rows["label"].tolist() for split, rows in source.tables.items()}
    assert labels == {"train": [0, 0, 0, 1, 1, 1], "dev": [0, 1, 0]}
    assert source.tables["train"].index.tolist() == list(range(6))
    withheld, unnamed = sorted(
        source.findings, key=lambda finding: finding.where == "data/other.parquet"
    )
    assert "withheld" in withheld.message
    assert "file left out" in unnamed.message
    assert len(source.files) == 5 and source.name == tmp_path.name


def test_a_configuration_is_a_folder(tmp_path: Path, frame: pd.DataFrame) -> None:
    for name, rows in (("plain", frame), ("other", pd.concat([frame, frame]))):
        (tmp_path / name).mkdir()
        rows.to_parquet(tmp_path / name / "train.parquet")
    assert len(image_table.read(params(tmp_path, config_name="plain")).tables["train"]) == 3


def test_a_column_may_tell_the_splits(tmp_path: Path, frame: pd.DataFrame) -> None:
    path = tmp_path / "x.parquet"
    frame.assign(part=["train", "Test", "train"]).to_parquet(path)
    tables = image_table.read(params(path, split_column="part")).tables
    assert tables["train"]["image"].tolist() == [IMAGES[0], IMAGES[2]]
    assert tables["test"]["image"].tolist() == [IMAGES[1]]
    assert list(tables["test"]) == ["image", "label", "place"]
    assert tables["test"]["place"].tolist() == [f"{path}, row 2"]
    frame.assign(part=["train", "later", "train"]).to_parquet(path)
    with pytest.raises(InputError, match="the split 'later' is none of"):
        image_table.read(params(path, split_column="part"))


@pytest.mark.parametrize(
    ("labels", "class_names", "expected"),
    [
        ([1, 0, 1], ["dog", "cat", "dog"], ("cat", "dog")),
        ([1, 0, 1], ["dog", "cat", "cat"], None),  # a label with two names
        ([1, 0, 1], ["cat", "cat", "cat"], None),  # two labels with one name
        ([1, 0, 1], ["dog", None, "dog"], None),
        ([1, 2, 1], ["dog", "cat", "dog"], None),  # which is 0?
    ],
)
def test_class_names_count_if_they_tell_the_labels_apart(
    tmp_path: Path, frame: pd.DataFrame, labels, class_names, expected
) -> None:
    frame.assign(label=labels, class_name=class_names).to_parquet(tmp_path / "train.parquet")
    source = image_table.read(params(tmp_path))
    assert source.label_names == expected
    assert [finding.where for finding in source.findings] == ["class_name"] * (expected is None)
    assert list(source.tables["train"]) == ["image", "label", "place"]


def test_class_names_may_be_the_labels(tmp_path: Path, frame: pd.DataFrame) -> None:
    path = tmp_path / "x.parquet"
    frame.assign(class_name=["a", "b", "b"]).to_parquet(path)
    source = image_table.read(params(path, label="class_name"))
    assert source.tables["train"]["label"].tolist() == ["a", "b", "b"]
    assert source.label_names is None and source.findings == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": [IMAGES[0], b"x", IMAGES[2]]}, "row 2: these 1 bytes are neither"),
        ({"image": [IMAGES[0], None, IMAGES[2]]}, "row 2: holds no image; store the bytes"),
        ({"image": ["a.png", "b.png", "c.png"]}, "column 'image' holds .*not the bytes of PNG"),
        ({"image": [1, 2, 3]}, "column 'image' holds int64, not the bytes"),
        ({"label": [0, None, 1]}, "row 2: column 'label' is empty"),
        ({"label": ["a", " ", "b"]}, "row 2: column 'label' is empty"),
        ({"label": [[0], [1], [1]]}, "column 'label' holds list"),
    ],
    ids=str,
)
def test_the_first_bad_row_is_named(tmp_path: Path, frame, change, message) -> None:
    path = tmp_path / "train.parquet"
    frame.assign(**change).to_parquet(path)
    for data in (path, tmp_path):
        with pytest.raises(InputError, match=rf"{path}.*{message}"):
            image_table.read(params(data))


def test_columns_that_cannot_be_told_are_named(tmp_path: Path, frame: pd.DataFrame) -> None:
    path = tmp_path / "x.parquet"
    frame.to_parquet(path)
    with pytest.raises(InputError, match=r"no column 'stars', which source\.label asks for"):
        image_table.read(params(path, label="stars"))
    pq.write_table(pa.table({"a": IMAGES, "b": IMAGES, "label": [0, 1, 1]}), path)
    with pytest.raises(InputError, match=r"2 columns hold encoded images \(of 'a', 'b'\)"):
        image_table.read(params(path))
    pq.write_table(pa.table({"text": ["x"], "label": [0]}), path)
    with pytest.raises(InputError, match=r"no columns hold encoded images \(of 'text', 'label'\)"):
        image_table.read(params(path))
    pq.write_table(pa.table([IMAGES, [0, 1, 1], [1, 1, 1]], ["image", "label", "label"]), path)
    with pytest.raises(InputError, match="several columns are called 'label'"):
        image_table.read(params(path))
    pq.write_table(pa.table({"image": pa.array([], pa.binary()), "label": []}), path)
    with pytest.raises(InputError, match="holds no rows"):
        image_table.read(params(path))


def test_bad_places_give_one_clear_error(tmp_path: Path, frame: pd.DataFrame) -> None:
    missing = tmp_path / "missing.parquet"
    with pytest.raises(InputError, match="no such file"):
        image_table.read(params(missing))
    assert image_table.digest(params(missing)) == "missing"
    with pytest.raises(InputError, match="has no parquet files"):
        image_table.read(params(tmp_path))
    assert image_table.digest(params(tmp_path)) == "missing"
    frame.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="named after their split"):
        image_table.read(params(tmp_path))
    (tmp_path / "train.parquet").write_text("x")
    with pytest.raises(InputError, match="not a readable parquet"):
        image_table.read(params(tmp_path))
    frame.to_parquet(tmp_path.parent / "outside.parquet")
    (tmp_path / "train.parquet").unlink()
    (tmp_path / "train.parquet").symlink_to(tmp_path.parent / "outside.parquet")
    with pytest.raises(InputError, match="leads out of the folder"):
        image_table.read(params(tmp_path))


@pytest.fixture
def hub_set():
    """A data set with an ``Image`` feature, as the library ``datasets`` has it."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    datasets.disable_progress_bars()
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    of_bytes = [{"bytes": one, "path": None} for one in IMAGES]
    return datasets.Dataset.from_dict({"img": of_bytes, "label": [0, 1, 1]}, features=features)


@pytest.mark.parametrize("kind", ["saved", "saved whole", "parquet", "hub"])
def test_a_hub_set_brings_its_bytes_and_label_names(
    hub_set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    import datasets

    splits = datasets.DatasetDict({"train": hub_set, "test": hub_set, "unsupervised": hub_set})
    data: Path | str = tmp_path / "set"
    if kind == "saved":
        hub_set.save_to_disk(data)
    elif kind == "saved whole":
        splits.save_to_disk(data)
    elif kind == "parquet":
        hub_set.to_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
    else:
        data = "someone/some-images"
        monkeypatch.setattr(huggingface, "from_hub", lambda _: splits)
    source = image_table.read(params(data))
    assert source.tables["train"]["image"].tolist() == IMAGES
    assert source.tables["train"]["label"].tolist() == [0, 1, 1]
    assert source.label_names == ("cat", "dog")
    assert len(source.tables) == (2 if kind in ("saved whole", "hub") else 1)
    if kind == "hub":
        assert source.files == {"hub": "someone/some-images@main"}
        assert image_table.digest(params(data)) == "someone/some-images@main"


def test_paths_are_never_followed(hub_set, tmp_path: Path) -> None:
    import datasets

    (tmp_path / "secret.png").write_bytes(encoded(9))
    column = [{"bytes": None, "path": str(tmp_path / "secret.png")}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    raw = pa.table({"img": pa.array(column, kind), "label": [0]})
    for way in ("parquet", "saved"):
        data = tmp_path / way
        data.mkdir()
        if way == "parquet":
            pq.write_table(raw, data / "train.parquet")
        else:
            hub_set.save_to_disk(data)
            shard = next(data.glob("*.arrow"))
            with pa.OSFile(str(shard), "wb") as file, pa.ipc.new_stream(file, raw.schema) as out:
                out.write_table(raw)
            loaded = datasets.load_from_disk(str(data))
            assert loaded.num_rows == 1  # the library would follow it: loaded[0] opens the file
        with pytest.raises(InputError, match=r"row 1: holds no image \(a path.*not followed\)"):
            image_table.read(params(data))


def test_odd_metadata_is_ignored(tmp_path: Path, frame: pd.DataFrame) -> None:
    raw = pa.Table.from_pandas(frame)
    for metadata in (b"{", b"[]", b'{"info": {"features": {"label": {"names": [1, 2]}}}}'):
        pq.write_table(
            raw.replace_schema_metadata({"huggingface": metadata}), tmp_path / "x.parquet"
        )
        assert image_table.read(params(tmp_path / "x.parquet")).label_names is None


def test_published_images_are_read_whole(real_data: Path) -> None:
    folder = real_data / "images" / "cifar10"
    if not folder.is_dir():
        pytest.skip("no published images")
    frame = pd.read_parquet(folder / "test.parquet")
    source = image_table.read(params(folder / "test.parquet"))
    rows = source.tables["train"]
    assert rows["image"].equals(frame["image"]) and rows["label"].equals(frame["label"])
    assert source.label_names[0] == "airplane" and source.label_names[9] == "truck"


class TestCaptions:
    def test_they_are_read_where_they_are_asked_for(self, tmp_path: Path, frame) -> None:
        path = tmp_path / "x.parquet"
        frame.assign(title=["a cat", "two cats", "no cat"]).to_parquet(path)
        rows = image_table.read(params(path, caption="title")).tables["train"]
        assert rows["caption"].tolist() == ["a cat", "two cats", "no cat"]
        assert "caption" not in image_table.read(params(path)).tables["train"]

    def test_a_column_that_is_not_there_is_an_error(self, tmp_path: Path, frame) -> None:
        frame.to_parquet(tmp_path / "x.parquet")
        with pytest.raises(InputError, match=r"x\.parquet.*'title'"):
            image_table.read(params(tmp_path / "x.parquet", caption="title"))

    @pytest.mark.parametrize("blank", ["", " \t", None], ids=repr)
    def test_an_empty_one_is_told_with_its_row(self, tmp_path: Path, frame, blank) -> None:
        path = tmp_path / "x.parquet"
        frame.assign(title=["a cat", blank, "no cat"]).to_parquet(path)
        with pytest.raises(InputError, match=r"x\.parquet, row 2: the caption is empty"):
            image_table.read(params(path, caption="title"))

    def test_numbers_are_no_captions(self, tmp_path: Path, frame) -> None:
        path = tmp_path / "x.parquet"
        frame.assign(title=[1, 2, 3]).to_parquet(path)
        with pytest.raises(InputError, match=r"'title' holds int64, not captions"):
            image_table.read(params(path, caption="title"))
