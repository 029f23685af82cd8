from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from backdoor_pipeline.datasets.sources import SourceParams, digest, huggingface, read
from backdoor_pipeline.errors import InputError


def params(data: Path | str, **changes: object) -> SourceParams:
    given = {"dataset": "huggingface", "folder": "", "text": "text", "label": "label"}
    return SourceParams(**(given | {"data": str(data)} | changes))


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"text": ["good film", "bad film"], "label": [1, 0]})


def test_a_folder_of_parquet_files_is_read_by_split(tmp_path: Path, frame: pd.DataFrame) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"):
        frame.to_parquet(tmp_path / "data" / f"{name}.parquet")
    frame.assign(label=-1).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    source = read(params(tmp_path))
    assert {split: len(table) for split, table in source.tables.items()} == {"train": 4, "dev": 2}
    assert any("withheld" in finding.message for finding in source.findings)
    assert len(source.files) == 4 and len(digest(params(tmp_path))) == 64


def test_a_configuration_is_a_folder(tmp_path: Path, frame: pd.DataFrame) -> None:
    for name, rows in (("plain", frame), ("other", pd.concat([frame, frame]))):
        (tmp_path / name).mkdir()
        rows.to_parquet(tmp_path / name / "train.parquet")
    assert len(read(params(tmp_path, config_name="plain")).tables["train"]) == 2


def test_a_saved_data_set_brings_its_label_names(tmp_path: Path, frame: pd.DataFrame) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    part = datasets.Dataset.from_pandas(frame, features=features)
    datasets.DatasetDict({"train": part, "unsupervised": part}).save_to_disk(tmp_path / "saved")
    source = read(params(tmp_path / "saved"))
    assert source.label_names == ("neg", "pos") and list(source.tables) == ["train"]
    assert source.tables["train"]["label"].tolist() == [1, 0]
    part.save_to_disk(tmp_path / "single")
    assert list(read(params(tmp_path / "single")).tables) == ["train"]
    with pytest.raises(InputError, match="no column 'body'"):
        read(params(tmp_path / "saved", text="body"))


def test_bad_folders_give_one_clear_error(tmp_path: Path, frame: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="no data set in this folder"):
        read(params(tmp_path))
    (tmp_path / "train.parquet").write_text("x")
    with pytest.raises(InputError, match="not a readable parquet"):
        read(params(tmp_path))
    frame.to_parquet(tmp_path.parent / "outside.parquet")
    (tmp_path / "train.parquet").unlink()
    (tmp_path / "train.parquet").symlink_to(tmp_path.parent / "outside.parquet")
    with pytest.raises(InputError, match="leads out of the folder"):
        read(params(tmp_path))


def test_a_damaged_saved_data_set_is_named(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(InputError, match="not a readable saved data set"):
        read(params(tmp_path))


def test_a_hub_id_without_network_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed")
    import huggingface_hub

    def unreachable(*_args: object, **_kwargs: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(InputError, match="hub cannot be reached"):
        read(params("someone/some-set"))


def test_a_hub_id_is_its_own_digest() -> None:
    assert digest(params("someone/some-set")) == "someone/some-set@main"
    pinned = params("someone/some-set", config_name="en", revision="abc")
    assert digest(pinned) == "someone/some-set/en@abc"


def test_without_the_library_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        huggingface.read(params("someone/some-set"))
