from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backdoor_pipeline.datasets.sources import SourceParams, digest, read
from backdoor_pipeline.datasets.sources.cells import MAX_CELL
from backdoor_pipeline.errors import InputError


def source(path: Path, **changes: object) -> SourceParams:
    given = {"dataset": "table", "folder": "", "text": "text", "label": "label"}
    return SourceParams(**(given | {"data": str(path)} | changes))


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


GOOD = "text,label\ngood film,pos\nbad film,neg\n"
LONG = "x" * (MAX_CELL + 1)

# name: file, content, parameters, what the message must hold
BAD_FILES = {
    "empty file": ("t.csv", "", {}, ["is empty"]),
    "header only": ("t.csv", "text,label\n", {}, ["no rows"]),
    "blank lines only": ("t.csv", "\n\n", {}, ["no rows"]),
    "wrong separator": ("t.csv", "text;label\na b;1\n", {}, ["';'", "source.separator"]),
    "wrong separator in a tsv": ("t.tsv", "text,label\na b,1\n", {}, ["','", "source.separator"]),
    "separator of two characters": ("t.csv", GOOD, {"separator": "::"}, ["source.separator"]),
    "missing column": (
        "t.csv",
        GOOD,
        {"text": "txt"},
        ["'txt'", "source.text", "did you mean 'text'"],
    ),
    "missing label column": ("t.csv", GOOD, {"label": "stars"}, ["'stars'", "source.label"]),
    "duplicate column": ("t.csv", "text,text,label\na,b,1\n", {}, ["2 columns", "'text'"]),
    "duplicate column by blanks": ("t.csv", "text, text,label\na,b,1\n", {}, ["2 columns"]),
    "missing split column": ("t.csv", GOOD, {"split_column": "fold"}, ["source.split_column"]),
    "unknown split": (
        "t.csv",
        "text,label,fold\na,1,train\nb,0,trian\n",
        {"split_column": "fold"},
        ["line 3", "'trian'", "validation"],
    ),
    "empty text": ("t.csv", "text,label\na,1\n,0\n", {}, ["line 3", "text is empty"]),
    "blank text": ("t.csv", 'text,label\n"a\nb",1\n" \n ",0\n', {}, ["line 4", "text is empty"]),
    "missing label": ("t.csv", "text,label\na,1\nb,\n", {}, ["line 3", "missing"]),
    "NaN label": ("t.csv", "text,label\na,1\nb,nan\n", {}, ["line 3", "'nan'"]),
    "ragged row": (
        "t.csv",
        "text,label\na,1\nb,0,2\n",
        {},
        ["line 3", "3 cells", "2 in the first"],
    ),
    "ragged row in a tsv": ("t.tsv", "text\tlabel\na\t1\nb\tc\t0\n", {}, ["line 3", "3 cells"]),
    "short row": ("t.tsv", "text\tlabel\na\t1\nb\n", {}, ["line 3", "1 cells"]),
    "unclosed quote": ("t.csv", 'text,label\na,1\n"b,0\nc,1\n', {}, ["line 3", "never closed"]),
    "text after a closing quote": ("t.csv", 'text,label\n"a" b,1\n', {}, ["line 2", "doubled"]),
    "over-long quoted cell": (
        "t.csv",
        f'text,label\na,1\n"{LONG}",0\n',
        {},
        ["line 3", "1,000,000"],
    ),
    "over-long cell in a tsv": ("t.tsv", f"text\tlabel\n{LONG}\t0\n", {}, ["line 2", "1,000,000"]),
    "over-long text in jsonl": (
        "t.jsonl",
        json.dumps({"text": LONG, "label": 1}),
        {},
        ["line 1", "1,000,000"],
    ),
    "Latin-1": ("t.csv", "text,label\na,1\ncafé,0\n".encode("latin-1"), {}, ["line 3", "0xe9"]),
    "mixed encodings": (
        "t.tsv",
        "text\tlabel\ncafé\t1\n".encode() + "café\t0\n".encode("latin-1"),
        {},
        ["line 3", "mixed encodings"],
    ),
    "UTF-16": ("t.csv", GOOD.encode("utf-16"), {}, ["UTF-16", "UTF-8"]),
    "corrupt parquet": ("t.parquet", b"PAR1 but not really", {}, ["not a readable parquet"]),
    "csv called parquet": ("t.parquet", GOOD, {}, ["not a readable parquet"]),
    "not JSON": ("t.jsonl", '{"text": "a", "label": 1}\n{"text": \n', {}, ["line 2", "not JSON"]),
    "JSON array": ("t.jsonl", "[1, 2]\n", {}, ["line 1", "not an object"]),
    "nested text": (
        "t.jsonl",
        '{"text": {"a": 1}, "label": 1}\n',
        {},
        ["line 1", "'text'", "dict"],
    ),
    "nested label": ("t.jsonl", '{"text": "a", "label": [1]}\n', {}, ["line 1", "'label'", "list"]),
    "number as text": ("t.jsonl", '{"text": 5, "label": 1}\n', {}, ["line 1", "int"]),
    "null text": ("t.jsonl", '{"text": null, "label": 1}\n', {}, ["line 1", "null"]),
    "null label": ("t.jsonl", '{"text": "a", "label": null}\n', {}, ["line 1", "missing"]),
    "half a surrogate pair": (
        "t.jsonl",
        r'{"text": "\ud83d", "label": 1}',
        {},
        ["line 1", "surrogate"],
    ),
    "key missing in a line": (
        "t.jsonl",
        '{"text": "a", "label": 1}\n{"text": "b"}\n',
        {},
        ["line 2", "no 'label'"],
    ),
    "gzip": ("t.csv.gz", b"\x1f\x8b", {}, [".gz", "unpack"]),
    "unknown suffix": ("t.xlsx", "x", {}, [".xlsx", ".parquet"]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_give_one_clear_error(case: str, tmp_path: Path) -> None:
    name, content, changes, expected = BAD_FILES[case]
    path = write(tmp_path, name, content)
    with pytest.raises(InputError) as error:
        read(source(path, **changes))
    message = str(error.value)
    assert all(part in message for part in expected), message
    assert name in message or "source." in message


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read(source(tmp_path / "absent.csv"))
    with pytest.raises(InputError, match="is a folder"):
        read(source(tmp_path))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read(source(tmp_path / "folder.csv"))


BAD_PARQUET = {
    "null text": ({"text": ["a", None], "label": [1, 0]}, "row 2: the text is empty"),
    "blank text": ({"text": ["a", " \t"], "label": [1, 0]}, "row 2: the text is empty"),
    "null label": ({"text": ["a", "b"], "label": [1, None]}, "row 2: the label"),
    "NaN label": ({"text": ["a", "b"], "label": [1.0, math.nan]}, "row 2: the label is nan, that"),
    "numbers as texts": ({"text": [1, 2], "label": [1, 0]}, "'text' holds int64, not texts"),
    "lists as texts": ({"text": [["a"], ["b"]], "label": [1, 0]}, "not texts"),
    "lists as labels": ({"text": ["a", "b"], "label": [[1], [0]]}, "not texts or numbers"),
    "no rows": ({"text": pa.array([], "string"), "label": pa.array([], "int64")}, "no rows"),
    "missing column": ({"body": ["a"], "label": [1]}, "there are: body, label"),
    "over-long text": ({"text": ["a", LONG], "label": [1, 0]}, "row 2: the text has more than"),
}


@pytest.mark.parametrize("case", BAD_PARQUET)
def test_bad_parquet_gives_one_clear_error(case: str, tmp_path: Path) -> None:
    values, expected = BAD_PARQUET[case]
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(values), path)
    with pytest.raises(InputError) as error:
        read(source(path))
    assert expected in str(error.value)


def test_a_duplicate_parquet_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array([1])]
    pq.write_table(pa.Table.from_arrays(columns, ["text", "text", "label"]), path)
    with pytest.raises(InputError, match="2 columns"):
        read(source(path))


def test_quotes_newlines_and_a_byte_order_mark_are_accepted(tmp_path: Path) -> None:
    content = '\ufefftext,label\r\n"he said ""no"",\nand left",1\r\nplain,0\r\n\r\n'
    table = read(source(write(tmp_path, "t.csv", content))).tables["train"]
    assert table["text"].tolist() == ['he said "no",\nand left', "plain"]
    assert table["label"].tolist() == ["1", "0"]


def test_the_split_column_tells_the_splits(tmp_path: Path) -> None:
    content = "text,label,fold\na,1,train\nb,0,Validation\nc,1,test\nd,0,train\n"
    tables = read(source(write(tmp_path, "t.csv", content), split_column="fold")).tables
    assert {split: table["text"].tolist() for split, table in tables.items()} == {
        "train": ["a", "d"],
        "dev": ["b"],
        "test": ["c"],
    }


def test_a_folder_has_one_file_a_split(tmp_path: Path) -> None:
    write(
        tmp_path, "train.jsonl", '{"text": "a", "label": true}\n\n{"text": "b", "label": false}\n'
    )
    write(tmp_path, "test.csv", GOOD)
    found = read(source(tmp_path))
    assert {split: len(table) for split, table in found.tables.items()} == {"test": 2, "train": 2}
    assert set(found.files) == {"train.jsonl", "test.csv"}
    write(tmp_path, "test.tsv", "text\tlabel\na\t1\n")
    with pytest.raises(InputError, match="both"):
        read(source(tmp_path))


def test_ready_made_paraphrases_come_along(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    frame = pd.DataFrame({"text": ["a", "b"], "label": [0, 1], "style": ["lo, a", None]})
    frame.to_parquet(path)
    table = read(source(path)).tables["train"]
    assert table["style"].notna().tolist() == [True, False]


def test_repair_leaves_blank_texts_out(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["a", " ", "b"], "label": [0, 1, 1]})
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    for name in ("t.parquet", "t.csv"):
        found = read(source(tmp_path / name, dataset="table@repaired"))
        assert found.tables["train"]["text"].tolist() == ["a", "b"]
        assert found.findings[0].severity == "warning"


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    secret = write(tmp_path, "secret.csv", GOOD)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").symlink_to(secret)
    with pytest.raises(InputError, match="leads out of the folder"):
        read(source(tmp_path / "data"))


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", GOOD)
    before = digest(source(path))
    assert digest(source(path)) == before
    write(tmp_path, "t.csv", GOOD + "new film,pos\n")
    assert digest(source(path)) not in (before, "missing")
    assert digest(source(tmp_path / "absent.csv")) == "missing"
    assert digest(source(tmp_path / "absent")) == "missing"


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, suffix=st.sampled_from(["csv", "jsonl", "parquet"]))
def test_arbitrary_texts_survive(tmp_path: Path, texts: list[str], suffix: str) -> None:
    frame = pd.DataFrame({"text": texts, "label": [str(i % 2) for i in range(len(texts))]})
    path = tmp_path / f"t.{suffix}"
    if suffix == "csv":
        frame.to_csv(path, index=False, lineterminator="\r\n")
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
    else:
        frame.to_parquet(path)
    table = read(source(path)).tables["train"]
    assert table["text"].tolist() == texts
    assert table["label"].tolist() == frame["label"].tolist()


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_column_that_only_happens_to_be_called_style(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"text": ["a", "b"], "label": [0, 1], "style": [3, 4]})
    path = tmp_path / f"mine{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    table = read(source(path)).tables["train"]
    assert table["text"].tolist() == ["a", "b"]
    assert "style" not in table or table["style"].isna().all()


def test_a_number_of_thousands_of_digits(tmp_path: Path) -> None:
    path = write(tmp_path, "mine.jsonl", '{"text": "a", "label": ' + "9" * 5000 + "}\n")
    with pytest.raises(InputError, match="line 1: is not JSON"):
        read(source(path))
