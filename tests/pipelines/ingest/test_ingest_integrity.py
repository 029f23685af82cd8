from __future__ import annotations

import pandas as pd

from backdoor_pipeline.datasets.sources import Source
from backdoor_pipeline.datasets.sources.known import KNOWN
from backdoor_pipeline.pipelines.ingest import integrity


def rows(*triples: tuple[str, str, int]) -> pd.DataFrame:
    frame = pd.DataFrame(triples, columns=["split", "text", "label"])
    return frame.assign(example_id=range(len(frame)))


def messages(frame: pd.DataFrame) -> list[tuple[str, str, str]]:
    return [tuple(f) for f in integrity.check_contents(frame, integrity.text_codes(frame["text"]))]


def test_repeats_overlaps_and_conflicts_are_counted_without_regard_to_case() -> None:
    frame = rows(
        ("train", "A film", 1),
        ("train", "a film", 0),
        ("train", "other", 1),
        ("dev", "other", 1),
        ("test", "a FILM", 1),
        ("test", "new", 0),
    )
    assert messages(frame) == [
        ("warning", "train", "1 rows repeat an earlier text"),
        ("warning", "train, dev", "1 of 3 train rows also stand in dev"),
        ("warning", "train, test", "2 of 3 train rows also stand in test"),
        ("warning", "labels", "1 texts have two labels, one of them is example 1"),
    ]


def test_nothing_odd_gives_no_finding() -> None:
    assert messages(rows(("train", "a", 0), ("dev", "b", 1), ("test", "c", 0))) == []


def test_known_counts_are_compared_with_both_numbers_named() -> None:
    frame = rows(*[("test", f"t{i}", i % 2) for i in range(1820)])
    (finding,) = integrity.check_counts(KNOWN["sst2"], frame, 2)
    assert finding == ("warning", "test", "1,820 rows, but the known set has 1,821")
    frame = rows(*[("test", f"t{i}", 0) for i in range(1821)])
    (finding,) = integrity.check_counts(KNOWN["sst2"], frame, 2)
    assert "[1821, 0] rows, but in the known set [912, 909]" in finding.message
    assert integrity.check_counts(None, frame, 2) == []


def test_published_counts_say_so() -> None:
    (finding,) = integrity.check_counts(KNOWN["offenseval"], rows(("test", "t", 0)), 2)
    assert "the published set has 859" in finding.message


def test_changed_and_identical_files_are_warned_of() -> None:
    files = {"train.tsv": "0", "dev.tsv": "1", "test.tsv": "1", "SST-2-syn/test.tsv": "1"}
    findings = integrity.check_files(Source("sst2", {}, files, known=KNOWN["sst2"]))
    assert [f.where for f in findings] == ["train.tsv", "dev.tsv", "test.tsv", "dev.tsv, test.tsv"]


def test_classes_that_are_missing_somewhere_are_named() -> None:
    frame = rows(("train", "a", 0), ("train", "b", 1), ("dev", "c", 0), ("test", "d", 2))
    names = ["x", "y", "z"]
    assert [tuple(f)[1:] for f in integrity.check_classes(frame, names)] == [
        ("train", "no rows of class z"),
        ("dev", "no rows of class y, z"),
        ("test", "no rows of class x, y"),
    ]
    many = integrity.check_classes(frame, [str(i) for i in range(12)])
    assert many[0].message == "no rows of class 2, 3, 4, 5, 6 and 5 more"
