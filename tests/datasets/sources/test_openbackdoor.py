from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backdoor_pipeline.datasets.sources import Source, SourceParams, digest, read
from backdoor_pipeline.errors import InputError


def params(folder: Path, dataset: str, **changes: object) -> SourceParams:
    given = {"dataset": dataset, "folder": str(folder), "text": "text", "label": "label"}
    return SourceParams(**(given | changes))


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def rows(source: Source, split: str = "train") -> list[tuple]:
    return list(source.tables[split][["text", "label"]].itertuples(index=False, name=None))


def messages(source: Source) -> str:
    return "\n".join(f"{f.severity} {f.where}: {f.message}" for f in source.findings)


SST2 = "SentimentAnalysis/SST-2"
TWO_ROWS = "sentence\tlabel\ngood film\t1\nbad film\t0\n"
LAYOUTS = {
    "sst2": ("SentimentAnalysis/SST-2", {"tsv": TWO_ROWS}),
    "hsol": ("Toxic/hsol", {"tsv": "Sentence\tLabel\ngood film\t1\nbad film\t0\n"}),
    "offenseval": ("Toxic/offenseval", {"tsv": "good film\t 1\nbad film\t 0\n"}),
    "jigsaw": (
        "openbackdoor/Toxic/jigsaw",
        {"tsv": 'sentence\tlabel\n"good\nfilm"\t1\nbad film\t0\n'},
    ),
    "twitter": ("Toxic/Twitter", {"csv": 'label,tweet\n1,"good\nfilm"\n0,bad film\n'}),
    "lingspam": ("Spam/lingspam", {"tsv": TWO_ROWS}),
    "enron": ("Spam/enrom", {"csv": ",0,1\n0,good film,1\n1,bad film,0\n"}),
    "imdb": (
        "SentimentAnalysis/imdb",
        {"txt": "good film\nbad film\n\n", "labels": "1\n0\n"},
    ),
    "dbpedia": ("TextClassification/dbpedia", {"txt": "good film\nbad film", "labels": "1\n0"}),
    "agnews": ("TextClassification/agnews", {"csv": '"2","good","film"\n"1","bad\\film",""\n'}),
}


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_each_known_layout_is_read(dataset: str, tmp_path: Path) -> None:
    folder, contents = LAYOUTS[dataset]
    for split in ("train", "test"):
        endings = {"labels": "_labels.txt"}
        write(
            tmp_path / folder,
            {split + endings.get(kind, f".{kind}"): text for kind, text in contents.items()},
        )
    source = read(params(tmp_path, dataset))
    assert list(source.tables) == ["train", "test"]
    found = [(" ".join(text.split()), label) for text, label in rows(source)]
    assert found == [("good film", 1), ("bad film", 0)]
    assert source.label_names
    assert len(digest(params(tmp_path, dataset))) == 64


def test_any_folder_of_that_layout_is_read(tmp_path: Path) -> None:
    write(tmp_path / "mine", {"train.tsv": "label\tbody\nspam\ta b\nham\tc d\n"})
    source = read(params(tmp_path, "openbackdoor", data=str(tmp_path / "mine"), text="body"))
    assert rows(source) == [("a b", "spam"), ("c d", "ham")]
    assert source.label_names is None and source.name == "mine"


def test_blanks_in_header_and_labels_are_set_aside_and_reported(tmp_path: Path) -> None:
    write(tmp_path / "TextClassification/ag", {"train.tsv": "sentence \t label\nx \t 0\ny\t 3\n"})
    source = read(params(tmp_path, "agnews"))
    assert [label for _, label in rows(source)] == [0, 3]
    assert "blanks around the column names" in messages(source)
    assert "blanks around 2 labels" in messages(source)


def test_raw_quotes_do_not_swallow_rows(tmp_path: Path) -> None:
    lines = ['"open quote\t1', "between\t0", 'closed" here\t1', '"say ""no"""\t0']
    write(tmp_path / "Toxic/hsol", {"train.tsv": "Sentence\tLabel\n" + "\n".join(lines) + "\n"})
    source = read(params(tmp_path, "hsol"))
    assert [text for text, _ in rows(source)] == [
        '"open quote',
        "between",
        'closed" here',
        'say "no"',
    ]
    assert "warning train.tsv: default csv quoting would read" in messages(source)


def test_a_first_row_that_is_no_header_is_reported(tmp_path: Path) -> None:
    write(tmp_path / SST2, {"train.tsv": "what a film\tgood\na b\t1\nc d\t0\n"})
    source = read(params(tmp_path, "sst2"))
    assert len(rows(source)) == 2
    assert "may be a lost row of data" in messages(source)


def test_without_train_file_dev_is_the_training_data(tmp_path: Path) -> None:
    write(tmp_path / SST2, {"dev.tsv": TWO_ROWS, "test.tsv": TWO_ROWS})
    source = read(params(tmp_path, "sst2"))
    assert list(source.tables) == ["train", "test"]
    assert "warning train: no train file" in messages(source)


PARAPHRASED = "sentence\tlabel\tstyle\ngood  film\t1\tLo, a film\nbad film\t0\tAlas\n"


def test_paraphrases_are_joined_by_text_not_by_place(tmp_path: Path) -> None:
    write(
        tmp_path / SST2, {"train.tsv": "bad film\t0\nnew film\t1\n", "test.tsv": "good film\t1\n"}
    )
    write(tmp_path / f"{SST2}-style", {"dev.tsv": PARAPHRASED, "test.tsv": TWO_ROWS})
    source = read(params(tmp_path, "sst2"))
    assert source.tables["train"]["style"].fillna("-").tolist() == ["Alas", "-"]
    assert source.tables["test"]["style"].tolist() == ["Lo, a film"]
    assert "syntax" not in source.tables["train"]
    assert "SST-2-style/dev.tsv" in source.files


def test_paraphrases_of_two_origins_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / SST2, {"train.tsv": TWO_ROWS, "test.tsv": "bad\t0\nfine\t1\nworse\t0\n"})
    write(tmp_path / f"{SST2}-style", {"train.tsv": PARAPHRASED})
    cache = tmp_path / "openbackdoor/poison_data/sst-2/1/stylebkd"
    write(
        cache,
        {
            "test-clean.csv": ",0,1,2\n0,bad,0,0\n1,fine,1,0\n2,worse,0,0\n",
            "test-poison.csv": ",0,1,2\n0,verily bad,1,1\n1,verily worse,1,1\n",
        },
    )
    source = read(params(tmp_path, "sst2"))
    assert source.tables["train"]["style"].isna().all()
    assert source.tables["test"]["style"].fillna("-").tolist() == [
        "verily bad",
        "-",
        "verily worse",
    ]
    assert "not mixed with those from SST-2-style" in messages(source)
    before = digest(params(tmp_path, "sst2"))
    write(cache, {"test-poison.csv": ",0,1,2\n0,verily,1,1\n1,verily worse,1,1\n"})
    assert digest(params(tmp_path, "sst2")) != before


BAD = {
    "label is no number": ({"train.tsv": "sentence\tlabel\na\t1\nb\tpos\n"}, ["line 3", "'pos'"]),
    "label out of range": ({"train.tsv": "sentence\tlabel\na\t1\nb\t2\n"}, ["line 3", "0 to 1"]),
    "negative label": ({"train.tsv": "a\t1\nb\t-1\n"}, ["line 2", "'-1'"]),
    "blank label": ({"train.tsv": "a\t1\nb\t\n"}, ["line 2", "label ''"]),
    "ragged": ({"train.tsv": "a\t1\nb\tc\t0\n"}, ["line 2", "3 cells"]),
    "wrong separator": ({"train.tsv": "sentence,label\na,1\n"}, ["','", "separator"]),
    "empty text": ({"train.tsv": "sentence\tlabel\na\t1\n\t0\n"}, ["line 3", "text is empty"]),
    "empty text in a first row without header": ({"train.tsv": "\t0\na\t1\n"}, ["line 1", "empty"]),
    "empty file": ({"train.tsv": ""}, ["train.tsv", "empty"]),
    "header only": ({"train.tsv": "sentence\tlabel\n"}, ["no rows"]),
    "blank lines": ({"train.tsv": "\n\n"}, ["no rows"]),
    "not UTF-8": ({"train.tsv": "caf\xe9\t1\n".encode("latin-1")}, ["line 1", "UTF-8"]),
    "fewer labels than texts": (
        {"train.txt": "a\nb\nc\n", "train_labels.txt": "1\n0\n"},
        ["3 texts, but 2 labels"],
    ),
    "blank text between": (
        {"train.txt": "a\n\nc\n", "train_labels.txt": "1\n0\n1\n"},
        ["line 2", "text is empty"],
    ),
    "no split": ({"readme.txt": "x"}, ["source.folder", "BACKDOOR_DATA", "train.tsv"]),
    "duplicate column": ({"train.tsv": "label\tlabel\na\tb\n"}, ["2 columns", "'label'"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders_give_one_clear_error(case: str, tmp_path: Path) -> None:
    files, expected = BAD[case]
    write(tmp_path / SST2, files)
    with pytest.raises(InputError) as error:
        read(params(tmp_path, "sst2"))
    assert all(part in str(error.value) for part in expected), str(error.value)


def test_rows_of_label_title_and_body_need_a_number(tmp_path: Path) -> None:
    write(tmp_path / "TextClassification/agnews", {"train.csv": '"1","a","b"\n"x","a","b"\n'})
    with pytest.raises(InputError, match="line 2: the label 'x'"):
        read(params(tmp_path, "agnews"))


def test_a_missing_folder_is_named_and_its_digest_is_missing(tmp_path: Path) -> None:
    for dataset, data in (("sst2", None), ("openbackdoor", str(tmp_path / "absent"))):
        asked = params(tmp_path, dataset, data=data)
        assert digest(asked) == "missing"
        with pytest.raises(InputError, match="no folder with"):
            read(asked)


def test_repair_leaves_blank_texts_out(tmp_path: Path) -> None:
    write(tmp_path / SST2, {"train.tsv": "a\t1\n \t0\nb\t0\n"})
    source = read(params(tmp_path, "sst2@repaired"))
    assert rows(source) == [("a", 1), ("b", 0)]
    assert source.repaired and "1 rows without text" in messages(source)


@pytest.mark.parametrize("link", [f"{SST2}/test.tsv", f"{SST2}-style", SST2])
def test_links_out_of_the_folder_are_refused(link: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write(outside, {"test.tsv": TWO_ROWS, "train.tsv": TWO_ROWS})
    root = tmp_path / "root"
    (root / "SentimentAnalysis").mkdir(parents=True)
    if link != SST2:
        write(root / SST2, {"train.tsv": TWO_ROWS})
    (root / link).symlink_to(outside / "test.tsv" if link.endswith("tsv") else outside)
    with pytest.raises(InputError, match="leads out of the folder"):
        read(params(root, "sst2"))


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"), max_size=30)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(CELL.filter(str.strip), min_size=1, max_size=8))
def test_no_raw_text_can_swallow_or_move_a_row(tmp_path: Path, texts: list[str]) -> None:
    lines = [f"{text}\t{i % 2}" for i, text in enumerate(texts)]
    write(tmp_path / SST2, {"train.tsv": "sentence\tlabel\n" + "\n".join(lines) + "\n"})
    try:
        found = rows(read(params(tmp_path, "sst2")))
    except InputError as error:  # a cell that is nothing but a pair of quotes
        assert "text is empty" in str(error) and any(text.strip('" \x0b') == "" for text in texts)
        return
    assert [label for _, label in found] == [i % 2 for i in range(len(texts))]
    for (text, _), raw in zip(found, texts, strict=True):
        assert text == raw or raw == '"' + text.replace('"', '""') + '"'


# counts of the published copies: rows, and non-target test rows (label 0) with a paraphrase
REAL = {
    "sst2": ({"train": 6920, "dev": 872, "test": 1821}, 912),
    "hsol": ({"train": 5823, "dev": 2485, "test": 2485}, 1242),
}


@pytest.mark.parametrize("dataset", REAL)
def test_published_sets_have_the_known_counts(dataset: str, real_data: Path) -> None:
    counts, n_non_target = REAL[dataset]
    tables = read(params(real_data, dataset)).tables
    assert {split: len(table) for split, table in tables.items()} == counts
    for kind in ("style", "syntax"):
        test = tables["test"]
        assert test.loc[test["label"] == 0, kind].notna().sum() == n_non_target
        assert tables["train"][kind].notna().sum() >= counts["train"] - 1


def test_published_ag_news_has_dev_as_training_data(real_data: Path) -> None:
    tables = read(params(real_data, "agnews")).tables
    assert {split: len(table) for split, table in tables.items()} == {"train": 10_000, "test": 7600}
    assert tables["test"]["label"].value_counts().tolist() == [1900] * 4


@pytest.mark.parametrize(
    ("lines", "settings", "expected"),
    [
        ("lang\treview\tsentiment\nde\ta b\t1\n", {"text": "review"}, "no column 'label'"),
        ("lang\treview\tsentiment\nde\ta b\t1\n", {"label": "sentiment"}, None),
        ("index\tsentence\n0\ta b\n", {}, "no column 'label'"),
        ("body\tlabel\na b\t1\n", {"text": "boddy"}, "did you mean 'body'"),
    ],
)
def test_no_other_column_is_taken_for_one_that_is_missing(
    tmp_path: Path, lines: str, settings: dict[str, str], expected: str | None
) -> None:
    write(tmp_path / "mine", {"train.tsv": lines})
    own = params(tmp_path, "openbackdoor", data=str(tmp_path / "mine"), **settings)
    if expected is None:
        assert rows(read(own)) == [("a b", "1")]
        return
    with pytest.raises(InputError, match=re.escape(expected)):
        read(own)
