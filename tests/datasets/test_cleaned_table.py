"""A table without some of its rows: all else is as it was, byte for byte."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdoor_pipeline.datasets import sources
from backdoor_pipeline.datasets.cleaned_table import CleanedTableDataset
from backdoor_pipeline.pipelines.ingest.nodes import ingest

COLUMNS = ["id", "body", "stars", "note"]
ROWS = [
    ["1", "plain", "a", "x"],
    ["2", 'quoted "words", and commas', "b", ""],
    ["3", "two\nlines 😀", "a", "ü"],
    ["4", "ends here", "b", "z"],
]


@pytest.fixture
def cleaned(make_parameters, tmp_path):
    """The table ``path`` without the rows whose texts are ``removed``, as a folder."""

    def clean(path: Path, removed: set[str], max_rows=None, **settings: Any) -> Path:
        changes = {"source.data": str(path), "source.text": "body", "source.label": "stars"}
        changes |= {f"source.{name}": value for name, value in settings.items()}
        changes |= {"ingest.max_rows": max_rows}
        source = make_parameters(**changes).source
        examples = ingest(sources.read(source), make_parameters(**changes).ingest, 0)["examples"]
        folder = tmp_path / "cleaned"
        dataset = CleanedTableDataset(filepath=str(folder), source=source.model_dump())
        dataset.save((examples.assign(removed=examples["text"].isin(removed)), ["a", "b"]))
        assert dataset.load() == sorted(file.name for file in folder.iterdir())
        return folder

    return clean


def many(rows: list[list[str]], n: int = 12) -> list[list[str]]:
    """Enough rows for an ingestion, each text another one."""
    return [[str(i), f"{rows[i % 4][1]} {i}", *rows[i % 4][2:]] for i in range(n)]


def as_csv(rows: list[list[str]], **format_: Any) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, **format_).writerows([COLUMNS, *rows])
    return file.getvalue()


@pytest.mark.parametrize("format_", [{}, {"lineterminator": "\n"}, {"quoting": csv.QUOTE_ALL}])
@pytest.mark.parametrize("out", [{0}, {11}, {2, 3, 6}, set()])
def test_csv(format_, out, cleaned, tmp_path) -> None:
    rows = many(ROWS)
    path = tmp_path / "reviews.csv"
    path.write_bytes(b"\xef\xbb\xbf" + as_csv(rows, **format_).encode())
    folder = cleaned(path, {" ".join(rows[i][1].split()) for i in out})
    kept = [row for i, row in enumerate(rows) if i not in out]
    expected = b"\xef\xbb\xbf" + as_csv(kept, **format_).encode()
    assert (folder / "reviews.csv").read_bytes() == expected


def test_tsv_with_raw_quotes(cleaned, tmp_path) -> None:
    lines = ["id\tbody\tstars", *(f'{i}\t"half quoted {i}\t{"ab"[i % 2]}' for i in range(12))]
    path = tmp_path / "reviews.tsv"
    path.write_text("\n".join(lines), encoding="utf-8")
    folder = cleaned(path, {'"half quoted 3'})
    assert (folder / "reviews.tsv").read_text() == "\n".join(lines[:4] + lines[5:])


def test_jsonl_with_blank_lines(cleaned, tmp_path) -> None:
    lines = [json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in many(ROWS)]
    path = tmp_path / "reviews.jsonl"
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    folder = cleaned(path, {"plain 4"})
    left = [line for line in (folder / "reviews.jsonl").read_text().splitlines() if line]
    assert left == lines[:4] + lines[5:]


def test_parquet_keeps_types_and_order_of_columns(cleaned, tmp_path) -> None:
    table = pa.table(
        {
            "when": pa.array(range(12), pa.timestamp("s")),
            "body": [f"text {i}" for i in range(12)],
            "tags": [[i] for i in range(12)],
            "stars": pa.array(["a", "b"] * 6).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "reviews.parquet")
    folder = cleaned(tmp_path / "reviews.parquet", {"text 5", "text 6"})
    left = pq.read_table(folder / "reviews.parquet")
    assert left.schema == pq.read_table(tmp_path / "reviews.parquet").schema
    assert left.column_names == table.column_names
    assert left["body"].to_pylist() == [f"text {i}" for i in range(12) if i not in (5, 6)]


def test_a_column_tells_the_splits(cleaned, tmp_path) -> None:
    """Examples are counted by split, rows of the file are not."""
    splits = ["test", "train", "dev", "train"] * 6
    rows = pd.DataFrame(
        {
            "body": [f"text {i}" for i in range(24)],
            "stars": ["a", "a", "b", "b"] * 6,
            "part": splits,
        }
    )
    rows.to_csv(tmp_path / "reviews.csv", index=False)
    folder = cleaned(tmp_path / "reviews.csv", {"text 4", "text 9"}, split_column="part")
    left = pd.read_csv(folder / "reviews.csv")
    pd.testing.assert_frame_equal(left, rows.drop([4, 9]).reset_index(drop=True))


def test_rows_that_were_not_examined_are_not_called_clean(cleaned, tmp_path) -> None:
    rows = pd.DataFrame({"body": [f"text {i}" for i in range(40)], "stars": ["a", "b"] * 20})
    rows.assign(part="train").to_csv(tmp_path / "reviews.csv", index=False)
    folder = cleaned(tmp_path / "reviews.csv", set(), max_rows=4)
    left = pd.read_csv(folder / "reviews.csv")
    assert len(left) == 12  # of train, dev and test
    assert set(left["body"]) < set(rows["body"])


def test_a_folder_of_splits(cleaned, tmp_path) -> None:
    source = tmp_path / "reviews"
    source.mkdir()
    for split in ("train", "test"):
        rows = [{"body": f"{split} {i}", "stars": "ab"[i % 2]} for i in range(12)]
        lines = "\n".join(map(json.dumps, rows))
        (source / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    folder = cleaned(source, {"train 1", "test 2"})
    for split, removed in (("train", 1), ("test", 2)):
        left = pd.read_json(folder / f"{split}.jsonl", lines=True)["body"].tolist()
        assert left == [f"{split} {i}" for i in range(12) if i != removed]


def test_what_is_no_table_becomes_one(make_parameters, tmp_path) -> None:
    examples = pd.DataFrame(
        {"example_id": [0, 1], "split": "train", "text": ["a", "b"], "label": [0, 1]}
    )
    dataset = CleanedTableDataset(
        filepath=str(tmp_path / "cleaned"), source=make_parameters().source.model_dump()
    )
    dataset.save((examples.assign(removed=[True, False]), ["bad", "good"]))
    left = pd.read_parquet(tmp_path / "cleaned" / "cleaned.parquet")
    assert left.to_dict("records") == [{"split": "train", "text": "b", "label": "good"}]


@given(st.sets(st.integers(0, 11)), st.sampled_from(["\n", "\r\n"]))
def test_rows_that_stay_are_those_that_were_kept(out, end) -> None:
    """A property of the writer alone."""
    from tempfile import TemporaryDirectory

    import numpy as np

    from backdoor_pipeline.datasets.sources import SourceParams, table

    rows = many(ROWS)
    with TemporaryDirectory() as name:
        path, target = Path(name) / "a.csv", Path(name) / "b.csv"
        path.write_bytes(as_csv(rows, lineterminator=end).encode())
        params = SourceParams(
            dataset="table", folder=".", data=str(path), text="body", label="stars",
            image="image", caption=None, classes=None, split_column=None, separator=None,
            config_name=None, revision=None,
        )  # fmt: skip
        table.write_without(path, params, np.array(sorted(out), dtype=int), target)
        kept = [row for i, row in enumerate(rows) if i not in out]
        assert target.read_bytes() == as_csv(kept, lineterminator=end).encode()
