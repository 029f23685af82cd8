from __future__ import annotations

from pathlib import Path

import pytest

from backdoor_pipeline.datasets.sources import SourceParams, digest, read
from backdoor_pipeline.datasets.sources.names import KNOWN_NAMES, Resolved, modality, resolve
from backdoor_pipeline.errors import InputError


def params(dataset: str, data: str | None = None) -> SourceParams:
    return SourceParams(dataset=dataset, folder="", data=data, text="text", label="label")


def test_the_variant_is_told_from_the_name() -> None:
    assert resolve(params("hsol")) == resolve(params("hsol@paper")) == Resolved("hsol", False)
    assert resolve(params("hsol@repaired")) == Resolved("hsol", True)


@pytest.mark.parametrize(
    ("dataset", "data", "expected"),
    [
        ("sst-2", None, "did you mean 'sst2'"),
        ("ag_news", None, "did you mean 'agnews'"),
        ("IMDB", None, "did you mean 'imdb'"),
        ("tabel", "x.csv", "did you mean 'table'"),
        ("../secret", None, "is unknown"),
        ("hsol@fixed", None, "paper or repaired"),
        ("table", None, "needs source.data"),
        ("sst2", "x.csv", "name two sources"),
    ],
)
def test_bad_names_give_one_clear_error(dataset: str, data: str | None, expected: str) -> None:
    for use in (read, digest):
        with pytest.raises(InputError, match=expected):
            use(params(dataset, data))


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["train.tsv"], "openbackdoor"),
        (["test.csv"], "openbackdoor"),
        (["train.txt", "train_labels.txt"], "openbackdoor"),
        (["test-clean.csv"], "poison_cache"),
        (["train.jsonl"], "table"),
        (["train.csv", "validation.csv"], "table"),
        (["train.tsv", "Val.tsv", "test.tsv"], "table"),
        (["train.csv", "notes.csv"], "openbackdoor"),
        (["train.parquet"], "huggingface"),
        (["dataset_dict.json"], "huggingface"),
    ],
)
def test_own_folders_are_told_by_their_files(files: list[str], kind: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert resolve(params("rotten_tomatoes", str(tmp_path))).name == kind


class TestOwnFolderWithOtherColumns:
    """``data=folder/`` with a train.csv that is not quite OpenBackdoor's."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for split in ("train", "validation"):
            rows = [f"{i},{split} {i};,{'ab'[i % 2]}" for i in range(6)]
            (tmp_path / f"{split}.csv").write_text("\n".join(["id,body,stars", *rows]))
        return tmp_path

    def own(self, folder: Path, **settings: str) -> SourceParams:
        columns = {"text": "body", "label": "stars"} | settings
        return SourceParams(dataset="rotten_tomatoes", folder="", data=str(folder), **columns)

    def test_columns_are_those_that_are_named_and_no_split_is_passed_over(self, folder) -> None:
        source = read(self.own(folder))
        assert list(source.tables) == ["train", "dev"]
        assert source.tables["dev"]["text"].tolist()[0] == "validation 0;"
        (folder / "validation.csv").unlink()
        source = read(self.own(folder))
        assert source.tables["train"]["text"].tolist()[0] == "train 0;"
        assert source.tables["train"]["label"].tolist()[:2] == ["a", "b"]

    def test_a_column_that_is_not_there(self, folder) -> None:
        for _ in range(2):
            with pytest.raises(InputError, match=r"train\.csv: no column 'bodi', .* 'body'"):
                read(self.own(folder, text="bodi"))
            (folder / "validation.csv").unlink(missing_ok=True)

    def test_settings_of_a_table_are_not_passed_over(self, folder) -> None:
        (folder / "validation.csv").unlink()
        with pytest.raises(InputError, match=r"no column 'part', which source\.split_column asks"):
            read(self.own(folder, split_column="part"))
        with pytest.raises(InputError, match="no column 'body'"):
            read(self.own(folder, separator=";"))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("reviews.parquet", "table"),
        ("a/b/c.tsv", "table"),
        ("./absent", "table"),
        ("/absent/folder", "table"),
        ("stanfordnlp/sst2", "huggingface"),
        ("imdb", "huggingface"),
    ],
)
def test_other_data_is_told_by_its_name(data: str, kind: str) -> None:
    assert resolve(params("rotten_tomatoes", data)).name == kind
    assert resolve(params("rotten_tomatoes@repaired", data)) == Resolved(kind, True)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["data_batch_1"], "cifar_binary"),
        (["cifar-100-python/meta"], "cifar_binary"),
        (["cifar-100-python/train", "cifar-100-python/test"], "cifar_binary"),
        (["data_batch_1.bin"], "cifar_binary"),
        (["cifar-100-binary/train.bin"], "cifar_binary"),
        (["data/train.parquet"], "image_table"),
        (["train/cat/1.png"], "image_folder"),
        (["cat/1.png", "cat/train.png"], "image_folder"),
    ],
)
def test_own_images_are_told_by_their_files(files: list[str], kind: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert resolve(params("mnist_digits", str(tmp_path))).name == kind


def test_names_tell_texts_from_images() -> None:
    images = ("mnist_digits", "cifar10@repaired", "image_table", "image_folder", "cifar_binary")
    assert {modality(params(name)) for name in images} == {"image"}
    texts = (*(set(KNOWN_NAMES) - {"mnist_digits", "cifar10"}), "sst2@repaired", "huggingface")
    assert {modality(params(name)) for name in texts} == {"text"}
    assert modality(params("dev")) is modality(params("sst3")) is None
