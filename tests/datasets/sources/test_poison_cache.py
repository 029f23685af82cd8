from __future__ import annotations

from pathlib import Path

import pytest

from backdoor_pipeline.datasets.sources import SourceParams, digest, read
from backdoor_pipeline.errors import InputError


def params(data: Path) -> SourceParams:
    return SourceParams(
        dataset="poison_cache", folder="", data=str(data), text="text", label="label"
    )


def write(folder: Path, name: str, texts: list[str], labels: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        f'{i},"{text}",{label},0' for i, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    (folder / name).write_text("\n".join([",0,1,2", *rows]) + "\n")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    attack = tmp_path / "poison_data" / "toy" / "1" / "stylebkd"
    write(attack, "train-clean.csv", ["a", "b", "c"], [0, 1, 0])
    write(attack, "train-poison.csv", ["lo a", "lo b", "lo c"], [1, 1, 1])
    write(attack, "test-clean.csv", ["d", "e", "f"], [0, 1, 0])
    write(attack, "test-poison.csv", ["lo d", "lo f"], [1, 1])
    return attack


@pytest.mark.parametrize("level", [0, 1, 2])
def test_clean_files_are_examples_and_poison_files_paraphrases(cache: Path, level: int) -> None:
    source = read(params([cache, *cache.parents][level]))
    assert source.tables["train"]["text"].tolist() == ["a", "b", "c"]
    assert source.tables["train"]["style"].tolist() == ["lo a", "lo b", "lo c"]
    assert source.tables["test"]["style"].fillna("-").tolist() == ["lo d", "-", "lo f"]
    assert len(source.files) == 4


def test_paraphrases_whose_number_does_not_fit_are_left_out(cache: Path) -> None:
    write(cache, "test-poison.csv", ["lo d"], [1])
    source = read(params(cache))
    assert source.tables["test"]["style"].isna().all()
    assert any("1 paraphrases for 2 texts" in finding.message for finding in source.findings)


def test_a_blank_paraphrase_is_none(cache: Path) -> None:
    write(cache, "test-poison.csv", [" ", "lo f"], [1, 1])
    assert read(params(cache)).tables["test"]["style"].fillna("-").tolist() == ["-", "-", "lo f"]


def test_word_triggers_are_no_paraphrases(cache: Path) -> None:
    cache = cache.rename(cache.with_name("badnets"))
    assert "style" not in read(params(cache)).tables["train"]


def test_bad_caches_give_one_clear_error(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no train-clean\.csv"):
        read(params(tmp_path / "absent"))
    assert digest(params(tmp_path / "absent")) == "missing"
    assert len(digest(params(cache))) == 64
    (cache / "train-clean.csv").write_text("text,label\na,0\n")
    with pytest.raises(InputError, match="no column '0'"):
        read(params(cache))


def test_the_published_cache(real_data: Path) -> None:
    folder = real_data / "openbackdoor" / "poison_data" / "sst-2"
    tables = read(params(folder)).tables
    assert {split: len(table) for split, table in tables.items()} == {
        "train": 6920,
        "dev": 872,
        "test": 1821,
    }
    non_target = tables["test"][tables["test"]["label"] == "0"]
    assert non_target["style"].notna().sum() == non_target["syntax"].notna().sum() == 912
