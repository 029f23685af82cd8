from __future__ import annotations

import sys
from pathlib import Path

import pytest

from backdoor_pipeline.datasets.sources import SourceParams, digest, movie_reviews, read
from backdoor_pipeline.errors import InputError

PARAMS = SourceParams(dataset="rotten_tomatoes", folder="", text="text", label="label")


def test_reviews_are_clean_labelled_and_grouped_by_film() -> None:
    if digest(PARAMS) == "missing":
        pytest.skip("the package that carries the movie reviews is not installed")
    source = read(PARAMS)
    table = source.tables["train"]
    assert len(table) > 12_000 and table["group"].nunique() > 500
    assert set(table["label"]) == {0, 1} and source.label_names == ("rotten", "fresh")
    assert table["text"].str.split().str.len().min() >= 3
    assert not table["text"].str.lower().duplicated().any()
    assert movie_reviews.DISTRIBUTION not in sys.modules


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movie_reviews, "DISTRIBUTION", "not-installed-at-all")
    assert digest(PARAMS) == "missing"
    with pytest.raises(InputError, match=r"requirements/samples\.txt"):
        read(PARAMS)


def test_another_file_in_the_package_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("text,movie_name\na b c,x\n")
    monkeypatch.setattr(movie_reviews, "packaged_file", lambda *_: path)
    with pytest.raises(InputError, match="no column"):
        read(PARAMS)
