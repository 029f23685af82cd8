"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kedro.io.core import DatasetError, Version

from backdoor_pipeline.datasets.whole import (
    FigureDataset,
    JSONDataset,
    TableDataset,
    TextDataset,
    write_whole,
)
from tiny import make_images

EXAMPLES = pd.DataFrame(
    {"example_id": [1, 2], "split": ["train", "dev"], "label": [0, 1], "text": ['a\n"b"', "ä🎬"]}
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(options, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class TestWriteWhole:
    def test_makes_the_folders(self, tmp_path) -> None:
        write_whole(tmp_path / "a" / "b.txt", lambda path: path.write_text("x"))
        assert names(tmp_path) == ["a", "b.txt"]

    def test_replaces_a_file(self, tmp_path) -> None:
        for text in ("old", "new"):
            write_whole(tmp_path / "a", lambda path, text=text: path.write_text(text))
        assert (tmp_path / "a").read_text() == "new"
        assert names(tmp_path) == ["a"]

    def test_replaces_a_folder(self, tmp_path) -> None:
        for name in ("old", "new"):

            def fill(path: Path, name: str = name) -> None:
                path.mkdir()
                (path / name).touch()

            write_whole(tmp_path / "model", fill)
        assert names(tmp_path) == ["model", "new"]

    @pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
    def test_what_fails_half_way_leaves_the_old_one(self, tmp_path, error) -> None:
        write_whole(tmp_path / "a", lambda path: path.write_text("old"))

        def fail(path: Path) -> None:
            path.write_text("ne")
            raise error

        with pytest.raises(type(error)):
            write_whole(tmp_path / "a", fail)
        assert (tmp_path / "a").read_text() == "old"
        assert names(tmp_path) == ["a"]

    def test_what_a_killed_process_left_is_overwritten(self, tmp_path) -> None:
        part = tmp_path / f".model.{os.getpid()}.part"
        part.mkdir()
        (part / "half").touch()
        write_whole(tmp_path / "model", lambda path: path.write_text("x"))
        assert names(tmp_path) == ["model"]

    def test_no_space_left(self, tmp_path) -> None:
        def fill(path: Path) -> None:
            path.write_text("ne")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with pytest.raises(DatasetError, match=r"cannot write .*No space left.*free some space"):
            write_whole(tmp_path / "a", fill)
        assert names(tmp_path) == []

    def test_below_a_file(self, tmp_path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DatasetError, match=r"cannot write .*data_dir.*may write to"):
            write_whole(tmp_path / "file" / "a", lambda path: path.write_text("x"))


class TestFullDisk:
    """What the libraries that write do when the disk is really full."""

    def test_a_table(self, small_disk) -> None:
        text = os.urandom(100_000).hex()
        dataset = TableDataset(filepath=str(small_disk / "t.parquet"), schema="EXAMPLES")
        with pytest.raises(DatasetError, match=r"cannot write.*free some space"):
            dataset.save(EXAMPLES.assign(text=[text, text[::-1]]))
        assert names(small_disk) == []

    def test_json(self, small_disk) -> None:
        with pytest.raises(DatasetError, match=r"cannot write.*free some space"):
            JSONDataset(filepath=str(small_disk / "a.json")).save({"a": "x" * 200_000})
        assert names(small_disk) == []

    def test_a_model(self, small_disk, base_model) -> None:
        from backdoor_pipeline.datasets.models import ClassifierDataset

        with pytest.raises(DatasetError, match=r"cannot write.*free some space"):
            ClassifierDataset(filepath=str(small_disk / "model")).save(base_model())
        assert names(small_disk) == []


class TestTable:
    def dataset(self, folder: Path) -> TableDataset:
        return TableDataset(filepath=str(folder / "t.parquet"), schema="EXAMPLES")

    def test_comes_back_as_it_was(self, tmp_path) -> None:
        dataset = self.dataset(tmp_path)
        assert not dataset.exists()
        dataset.save(EXAMPLES)
        assert dataset.exists()
        pd.testing.assert_frame_equal(dataset.load(), EXAMPLES)

    @pytest.mark.parametrize("n_rows", [0, 2, 5])
    def test_is_read_in_blocks_as_if_at_once(self, tmp_path, monkeypatch, n_rows) -> None:
        monkeypatch.setattr("backdoor_pipeline.datasets.whole.READ_ROWS", 2)
        some = pd.Series([1, None, None, None, 2], dtype="Int64")
        table = pd.DataFrame({"image": [b"a", b"b", b"", b"d", b"e"], "rank": some, "text": "ä"})
        table = table.assign(text=table["text"].astype("str"), share=[np.nan] * 3 + [0.5] * 2)
        table.head(n_rows).to_parquet(tmp_path / "t.parquet", index=False)
        pd.testing.assert_frame_equal(
            self.dataset(tmp_path).load(), pd.read_parquet(tmp_path / "t.parquet")
        )

    @pytest.mark.parametrize(
        "table",
        [
            EXAMPLES.drop(columns="label"),
            EXAMPLES.assign(surplus=1),
            EXAMPLES.assign(text=[" ", "b"]),
            EXAMPLES.assign(example_id=[1, 1]),
            EXAMPLES.assign(split=["train", "exam"]),
            EXAMPLES.assign(label=[0, -1]),
        ],
        ids=["missing", "surplus", "blank", "twice", "split", "label"],
    )
    def test_a_wrong_table_is_not_saved(self, tmp_path, table) -> None:
        with pytest.raises(DatasetError, match="this table is no 'examples' table"):
            self.dataset(tmp_path).save(table)
        assert names(tmp_path) == []

    def test_preview(self, tmp_path) -> None:
        self.dataset(tmp_path).save(pd.concat([EXAMPLES.assign(example_id=[2 * i, 2 * i + 1])
                                               for i in range(20)]))  # fmt: skip
        assert len(self.dataset(tmp_path).preview()["data"]) == 20

    def test_images_come_back_and_can_be_previewed(self, tmp_path) -> None:
        images = make_images(n_train=6, n_dev=2, n_test=2)
        self.dataset(tmp_path).save(images)
        pd.testing.assert_frame_equal(self.dataset(tmp_path).load(), images, check_dtype=False)
        assert self.dataset(tmp_path).load()["image"].map(type).eq(bytes).all()
        preview = json.loads(json.dumps(self.dataset(tmp_path).preview()))  # kedro-viz sends it
        shown = dict(zip(preview["columns"], zip(*preview["data"], strict=True), strict=True))
        assert shown["image"] == tuple(f"<{len(image):,} bytes>" for image in images["image"])
        assert shown["label"] == tuple(images["label"])

    def test_a_preview_reads_the_first_rows_alone(self, tmp_path) -> None:
        noise, n_rows = np.random.default_rng(0), 4000  # more than parquet writes at once
        table = pd.DataFrame({"example_id": range(n_rows), "split": "train", "label": 0})
        dataset = self.dataset(tmp_path)
        dataset.save(table.assign(image=[noise.bytes(1000) for _ in range(n_rows)]))
        broken = bytearray((tmp_path / "t.parquet").read_bytes())
        broken[3_000_000:3_900_000] = bytes(900_000)  # of the last images
        (tmp_path / "t.parquet").write_bytes(broken)
        with pytest.raises(DatasetError, match="Corrupt"):
            dataset.load()
        assert len(dataset.preview()["data"]) == 20

    def test_the_preview_of_a_table_without_rows_has_its_columns(self, tmp_path) -> None:
        self.dataset(tmp_path).save(EXAMPLES.head(0))
        preview = self.dataset(tmp_path).preview()
        assert (preview["columns"], preview["data"]) == (list(EXAMPLES), [])


class TestJSON:
    def test_comes_back_as_it_was(self, tmp_path) -> None:
        data = {"ä": [1, 2.5, None, True], "b": {"c": "🎬"}}
        dataset = JSONDataset(filepath=str(tmp_path / "a.json"))
        dataset.save(data)
        assert dataset.load() == data
        assert "ä" in (tmp_path / "a.json").read_text(encoding="utf-8")
        assert dataset.preview()

    def test_nan_is_no_json(self, tmp_path) -> None:
        with pytest.raises(DatasetError, match="JSON"):
            JSONDataset(filepath=str(tmp_path / "a.json")).save({"a": float("nan")})
        assert names(tmp_path) == []

    def test_versions_do_not_overwrite_each_other(self, tmp_path) -> None:
        for version in ("2026-01-01T00.00.00.000Z", "2026-01-02T00.00.00.000Z"):
            JSONDataset(filepath=str(tmp_path / "a.json"), version=Version(None, version)).save(
                version
            )
        newest = JSONDataset(filepath=str(tmp_path / "a.json"), version=Version(None, None))
        assert newest.exists()
        assert newest.load() == "2026-01-02T00.00.00.000Z"
        assert len(list(tmp_path.glob("a.json/*/a.json"))) == 2

    def test_an_empty_version_is_none(self, tmp_path) -> None:
        (tmp_path / "a.json" / "2026-01-01T00.00.00.000Z").mkdir(parents=True)
        dataset = JSONDataset(filepath=str(tmp_path / "a.json"), version=Version(None, None))
        assert not dataset.exists()


def test_text_and_figures_come_back(tmp_path) -> None:
    import plotly.graph_objects as go

    text = TextDataset(filepath=str(tmp_path / "a.html"))
    text.save("<p>ä</p>\n")
    assert text.load() == "<p>ä</p>\n"
    figure = FigureDataset(filepath=str(tmp_path / "f.json"))
    figure.save(go.Figure(go.Bar(x=["a"], y=[1])))
    assert figure.load().data[0].y == (1,)
    assert figure.preview()["data"]


def test_a_folder_that_another_run_wrote_meanwhile_is_kept(tmp_path: Path) -> None:
    final = tmp_path / "victim"

    def write(path: Path) -> None:
        path.mkdir()
        (path / "mine").touch()
        final.mkdir()  # the other run, at the worst moment
        (final / "theirs").touch()

    real_is_dir, calls = Path.is_dir, iter([False])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "is_dir", lambda p: next(calls, True) if p == final else real_is_dir(p))
        write_whole(final, write)
    assert [path.name for path in final.iterdir()] == ["theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]
