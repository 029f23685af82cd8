"""CIFAR in its binary version, from small files of the same layout."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backdoor_pipeline.datasets.sources import SourceParams, cifar_binary
from backdoor_pipeline.errors import InputError

TEN = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
]  # fmt: skip


def params(data: Path | str, **changes: object) -> SourceParams:
    given = {"dataset": "cifar_binary", "folder": "", "text": "text", "label": "label"}
    return SourceParams(**(given | {"data": str(data)} | changes))


def rows(seed: int, n_rows: int = 3, label_limits: tuple[int, ...] = (10,)) -> np.ndarray:
    generator = np.random.default_rng(seed)
    labels = [generator.integers(0, limit, n_rows) for limit in label_limits]
    pixels = generator.integers(0, 256, (n_rows, 3072))
    return np.column_stack([*labels, pixels]).astype(np.uint8)


@pytest.fixture
def ten() -> dict[str, bytes]:
    """The files of a small CIFAR-10."""
    return {
        "data_batch_1.bin": rows(1).tobytes(),
        "data_batch_2.bin": rows(2).tobytes(),
        "test_batch.bin": rows(3, 2).tobytes(),
        "batches.meta.txt": "\n".join([*TEN, ""]).encode(),
        "readme.html": b"<html>",
    }


@pytest.fixture
def hundred() -> dict[str, bytes]:
    """The files of a small CIFAR-100."""
    return {
        "train.bin": rows(1, 4, (20, 100)).tobytes(),
        "test.bin": rows(2, 2, (20, 100)).tobytes(),
        "coarse_label_names.txt": "\n".join(f"coarse {i}" for i in range(20)).encode(),
        "fine_label_names.txt": "\n".join(f"fine {i}" for i in range(100)).encode(),
    }


def in_folder(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def in_archive(path: Path, contents: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"cifar/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def test_the_pixels_are_those_of_the_file(ten, tmp_path: Path) -> None:
    source = cifar_binary.read(params(in_folder(tmp_path / "c", ten)))
    assert {split: len(table) for split, table in source.tables.items()} == {"train": 6, "test": 2}
    expected = np.concatenate([rows(1), rows(2)])
    train = source.tables["train"]
    assert train["label"].tolist() == expected[:, 0].tolist() and train["label"].dtype == "int64"
    assert train.index.tolist() == list(range(6))
    for row, content in zip(expected, train["image"], strict=True):
        image = pixels(content)
        assert image.shape == (32, 32, 3)
        # row 5, column 7 of each of the three planes, one after the other
        assert image[5, 7].tolist() == [row[1 + plane * 1024 + 5 * 32 + 7] for plane in range(3)]
        assert np.array_equal(image.transpose(2, 0, 1).ravel(), row[1:])
    assert source.name == "cifar10" and source.label_names == tuple(TEN)
    assert sorted(source.files) == sorted(set(ten) - {"readme.html"})
    assert source.known.rows["train"] == (5000,) * 10


def test_ten_or_more_batches_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    contents = {f"data_batch_{n}.bin": rows(n, 1).tobytes() for n in range(1, 12)}
    source = cifar_binary.read(params(in_folder(tmp_path / "c", contents)))
    labels = [int(rows(n, 1)[0, 0]) for n in range(1, 12)]
    assert source.tables["train"]["label"].tolist() == labels
    assert list(source.tables) == ["train"] and source.label_names is None


@pytest.mark.parametrize(("suffix", "mode"), [(".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar", "w")])
def test_an_archive_and_a_folder_give_the_same(ten, tmp_path: Path, suffix, mode) -> None:
    archive = in_archive(tmp_path / f"cifar-10-binary{suffix}", ten, mode)
    inner = in_folder(tmp_path / "outer" / "cifar-10-batches-bin", ten)
    before = sorted(tmp_path.rglob("*"))
    one = cifar_binary.read(params(archive))
    for other in (inner, inner.parent):
        source = cifar_binary.read(params(other))
        for split, table in one.tables.items():
            assert table.equals(source.tables[split])
    assert sorted(tmp_path.rglob("*")) == before  # nothing was unpacked
    assert list(one.files) == [archive.name]
    assert len({cifar_binary.digest(params(p)) for p in (archive, inner, inner.parent)}) == 2
    assert cifar_binary.digest(params(tmp_path / "nothing")) == "missing"


def test_of_cifar_100_either_label(hundred, tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "c", hundred)
    expected = rows(1, 4, (20, 100))
    for label, column, n_names in (
        *(("label", 1, 100), ("fine_label", 1, 100), ("coarse_label", 0, 20)),
    ):
        source = cifar_binary.read(params(folder, label=label))
        assert source.name == "cifar100" and len(source.label_names) == n_names
        assert source.tables["train"]["label"].tolist() == expected[:, column].tolist()
        first = pixels(source.tables["train"]["image"][0])
        assert np.array_equal(first.transpose(2, 0, 1).ravel(), expected[0, 2:])
        assert set(source.tables) == {"train", "test"}


def test_a_label_that_is_not_there(ten, hundred, tmp_path: Path) -> None:
    for folder, contents, label, told in (
        ("c10", ten, "coarse_label", "label"),
        ("c100", hundred, "coarse", "coarse_label"),
    ):
        data = in_folder(tmp_path / folder, contents)
        with pytest.raises(InputError, match=f"has no label '{label}', .*did you mean '{told}'"):
            cifar_binary.read(params(data, label=label))


class Trap:
    """A pickle of it would make a folder when it is read."""

    def __reduce__(self) -> tuple:
        return Path.mkdir, (Path("trapped"),)


@pytest.mark.parametrize("name", ["data_batch_1", "train", "test_batch", "batches.meta"])
def test_the_python_version_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {name: pickle.dumps(Trap()), "readme.html": b""}
    folder = in_folder(tmp_path / "cifar-10-batches-py", contents)
    archive = in_archive(tmp_path / "cifar-10-python.tar.gz", contents)
    for data in (folder, archive):
        with pytest.raises(InputError, match=rf"{name}.*pickle.*binary version .*parquet"):
            cifar_binary.read(params(data))
    assert not (tmp_path / "trapped").exists()


def test_bad_files_are_named(ten, hundred, tmp_path: Path) -> None:
    batch = ten["data_batch_2.bin"]
    mislabelled = bytearray(batch)
    mislabelled[3073] = 10
    coarse = bytearray(hundred["train.bin"])
    coarse[3074] = 20
    cases = [
        (ten | {"data_batch_2.bin": batch[:-1]}, r"data_batch_2\.bin: 9,218 bytes are not.*3,073"),
        (ten | {"data_batch_2.bin": b""}, r"data_batch_2\.bin: 0 bytes"),
        (ten | {"data_batch_2.bin": bytes(mislabelled)}, r"_2\.bin, row 2: the label is 10, not 0"),
        (ten | {"data_batch_4.bin": batch}, r"has no data_batch_3\.bin"),
        (ten | {"batches.meta.txt": b"cat\ndog\n"}, r"batches\.meta\.txt: has 2 names, not 10"),
        (ten | {"batches.meta.txt": b"\xff"}, r"batches\.meta\.txt: is not UTF-8"),
        (hundred | {"train.bin": batch}, r"train\.bin: 9,219 bytes are not.*3,074"),
        (hundred | {"train.bin": bytes(coarse)}, r"row 2: the coarse_label is 20, not 0 to 19"),
        ({"test.bin": hundred["test.bin"]}, r"neither data_batch_1\.bin .* nor train\.bin"),
        ({"readme.html": b""}, r"neither data_batch_1\.bin .* nor train\.bin"),
    ]
    for number, (contents, message) in enumerate(cases):
        for data in (
            in_folder(tmp_path / str(number), contents),
            in_archive(tmp_path / f"{number}.tgz", contents),
        ):
            with pytest.raises(InputError, match=message):
                cifar_binary.read(params(data))


def test_bad_places_are_named(ten, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder or archive"):
        cifar_binary.read(params(tmp_path / "nothing"))
    other = tmp_path / "data_batch_1.bin"
    other.write_bytes(ten["data_batch_1.bin"])
    with pytest.raises(InputError, match="give the folder of the CIFAR files, or their archive"):
        cifar_binary.read(params(other))
    whole = in_archive(tmp_path / "whole.tar.gz", ten).read_bytes()
    cut = tmp_path / "cut.tar.gz"
    for content in (b"no archive", whole[: len(whole) // 2]):
        cut.write_bytes(content)
        with pytest.raises(InputError, match=r"not a readable archive .*fetch it again"):
            cifar_binary.read(params(cut))
    folder = in_folder(tmp_path / "linked", {})
    (folder / "train.bin").symlink_to(other)
    with pytest.raises(InputError, match="leads out of the folder"):
        cifar_binary.read(params(folder))


def test_an_archive_is_not_trusted(ten, tmp_path: Path) -> None:
    path = tmp_path / "odd.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("a/test_batch.bin", "/etc/../b/test_batch.bin"):
            member = tarfile.TarInfo(name)
            member.size = len(ten["test_batch.bin"])
            archive.addfile(member, io.BytesIO(ten["test_batch.bin"]))
    with pytest.raises(InputError, match=r"two files test_batch\.bin"):
        cifar_binary.read(params(path))
    with tarfile.open(path, "w") as archive:  # a link is no file of the archive
        member = tarfile.TarInfo("data_batch_1.bin")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(member)
    with pytest.raises(InputError, match=r"neither data_batch_1\.bin"):
        cifar_binary.read(params(path))
    member = tarfile.TarInfo("data_batch_1.bin")
    member.size = 2**40
    path.write_bytes(member.tobuf())
    with pytest.raises(InputError, match="1,099,511,627,776 bytes, far more than"):
        cifar_binary.read(params(path))
