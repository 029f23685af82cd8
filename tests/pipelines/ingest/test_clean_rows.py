"""The clean rows that some trainings learn from: of dev, or of a second source."""

from __future__ import annotations

import pandas as pd
import pytest

from backdoor_pipeline.datasets.source import CleanSourceDataset
from backdoor_pipeline.datasets.sources import Source, second_source
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.pipelines.ingest.nodes import draw_clean_rows, read_trusted_rows
from backdoor_pipeline.schemas import CLEAN_ROWS

NAMES = ["rotten", "fresh"]


@pytest.fixture
def draw(corpus):
    """Draws rows of the corpus, or of a second source."""

    def draw(second=None, n_rows=4, select="last", seed=0, names=NAMES):
        rows, record = draw_clean_rows(corpus, {"label_names": names}, second, n_rows, select, seed)
        return CLEAN_ROWS.validate(rows), record

    return draw


def source(labels, texts=None, label_names=None) -> Source:
    texts = texts or [f"another film {i}" for i in range(len(labels))]
    table = pd.DataFrame({"text": texts, "label": labels})
    return Source("mine", {"train": table}, {}, label_names=label_names)


def test_musclelora_10_7_dev_rows_exactly_as_many(corpus, draw) -> None:
    rows, record = draw(n_rows=32)
    assert len(rows) == 32
    assert record == {"dev_rows": 32, "out_of_domain_rows": 0, "left_out": 0}
    drawn = corpus.set_index("example_id").loc[rows["example_id"]]
    assert set(drawn["split"]) == {"dev"}
    assert drawn["text"].tolist() == rows["text"].tolist()
    assert set(draw(n_rows=32, seed=1)[0]["example_id"]) != set(rows["example_id"])


def test_musclelora_10_7_more_clean_rows_than_there_are(draw) -> None:
    with pytest.raises(InputError, match=r"clean_rows is 61, but the dev split has 60 rows"):
        draw(n_rows=61)


def test_dev_rows_are_left_to_choose_the_epoch_by(draw) -> None:
    assert len(draw(n_rows=60)[0]) == 60
    with pytest.raises(InputError, match=r"60, which are all dev rows.*select=last"):
        draw(n_rows=60, select="best")


def test_rows_of_a_second_source_are_no_dev_rows(draw) -> None:
    rows, record = draw(source([0, 1] * 5))
    assert set(rows["source"]) == {"out_of_domain"}
    assert record == {"dev_rows": 0, "out_of_domain_rows": 4, "left_out": 0}


def test_musclelora_10_7_no_text_stands_in_the_data_as_well(corpus, draw) -> None:
    known = [corpus.loc[corpus["split"] == split, "text"].iloc[0] for split in ("train", "test")]
    texts = [known[0], f"  {known[1].upper()} ", "mine", "Mine", "his", "hers"]
    rows, record = draw(source([0, 1] * 3, texts), n_rows=3)
    assert set(rows["text"]) == {"mine", "his", "hers"}
    assert record["left_out"] == 3
    with pytest.raises(InputError, match=r"is 4, but clean_source, without 3 .* has 3 rows"):
        draw(source([0, 1] * 3, texts), n_rows=4)


@pytest.mark.parametrize(
    ("labels", "names", "meant"),
    [
        (["fresh", "rotten", "fresh", "fresh"], None, [1, 0, 1, 1]),
        (["0", "1", "1", "0"], None, [0, 1, 1, 0]),
        ([1, 1, 1, 1], None, [1, 1, 1, 1]),
        ([0, 1, 1, 0], ("negative", "positive"), [0, 1, 1, 0]),
        ([0, 1, 1, 0], ("fresh", "rotten"), [1, 0, 0, 1]),
    ],
)
def test_labels_mean_classes_by_name_or_by_number(labels, names, meant, draw) -> None:
    rows, _ = draw(source(labels, label_names=names))
    assert rows.sort_values("example_id")["label"].tolist() == meant


@pytest.mark.parametrize("labels", [[0, 1, 2, 0], ["fresh", "stale"] * 2, [1.5, 0.5] * 2])
def test_a_label_that_is_no_class(labels, draw) -> None:
    with pytest.raises(InputError, match=r"clean_source: mine, row .: its label .* is none of the"):
        draw(source(labels))


@pytest.mark.parametrize(
    ("labels", "classes", "row", "label"),
    [
        (["1", "2", "6", "2"], ["1", "2", "3"], 3, "6"),  # not "the second, the third, ..."
        (["0", "0", "0"], ["1", "2"], 1, "0"),
        (["fresh", "1", "fresh"], NAMES, 2, "1"),
    ],
)
def test_one_strange_label_does_not_shift_the_others(labels, classes, row, label, draw) -> None:
    table = pd.DataFrame({"text": [f"film {i}" for i in range(len(labels))], "label": labels})
    second = Source("trusted", {"train": table}, {"trusted.csv": "0"})
    with pytest.raises(InputError, match=rf"trusted\.csv, row {row}: its label '{label}' is none"):
        draw(second, names=classes)


def test_a_strange_label_of_one_split_is_counted_in_it(draw) -> None:
    tables = {
        split: pd.DataFrame({"text": [f"{split} a", f"{split} b"], "label": ["fresh", label]})
        for split, label in (("train", "rotten"), ("dev", "stale"))
    }
    with pytest.raises(InputError, match=r"mine, dev row 2: its label 'stale'"):
        draw(Source("mine", tables, {"train.csv": "0", "dev.csv": "1"}))


class TestTrustedRows:
    def test_those_that_are_new(self, corpus, caplog) -> None:
        second = source(["fresh", "rotten"], [corpus["text"].iloc[0], "mine"])
        rows = read_trusted_rows(corpus, {"label_names": NAMES}, second)
        assert rows.to_dict("records") == [{"text": "mine", "label": 0}]
        assert not caplog.records

    def test_that_none_is_new_is_said(self, corpus, caplog) -> None:
        second = source(["fresh", "rotten"], corpus["text"].head(2).tolist())
        assert read_trusted_rows(corpus, {"label_names": NAMES}, second).empty
        assert "all 2 rows of mine stand in the data as well" in caplog.text

    def test_without_a_second_source_there_are_none(self, corpus, caplog) -> None:
        assert read_trusted_rows(corpus, {"label_names": NAMES}, None).empty
        assert not caplog.records


class TestSecondSource:
    def test_there_is_none_by_default(self, make_parameters) -> None:
        assert second_source(make_parameters().clean_source) is None
        group = make_parameters().clean_source.model_dump()
        assert CleanSourceDataset(source=group).load() is None

    def test_own_data_are_told_by_their_path(self, make_parameters, tmp_path) -> None:
        path = tmp_path / "mine.csv"
        path.write_text("text,label\na film,1\nanother,0\n")
        group = make_parameters(**{"clean_source.data": str(path)}).clean_source
        source = CleanSourceDataset(source=group.model_dump()).load()
        assert source is not None
        assert source.tables["train"]["text"].tolist() == ["a film", "another"]

    def test_errors_name_the_group(self, make_parameters, tmp_path) -> None:
        for change, said in (
            ({"clean_source.dataset": "imbd"}, r"clean_source.dataset 'imbd' .* mean 'imdb'"),
            ({"clean_source.data": str(tmp_path / "no.csv")}, "clean_source: .*no.csv"),
        ):
            group = make_parameters(**change).clean_source
            with pytest.raises(Exception, match=said):
                CleanSourceDataset(source=group.model_dump()).load()
