from __future__ import annotations

import pandas as pd

from backdoor_pipeline.pipelines.ingest.integrity import text_codes
from backdoor_pipeline.pipelines.ingest.repair import repaired


def repair(*triples: tuple[str, str, int]) -> tuple[dict[str, list[str]], list[str]]:
    frame = pd.DataFrame(triples, columns=["split", "text", "label"])
    frame = frame.assign(example_id=range(len(frame)))
    rows, findings = repaired(frame, text_codes(frame["text"]))
    return (
        {split: part["text"].tolist() for split, part in rows.groupby("split")},
        [finding.message for finding in findings],
    )


def test_a_sound_set_is_left_alone() -> None:
    sound = [("train", "a", 0), ("train", "a", 0), ("dev", "b", 1), ("test", "c", 1)]
    assert repair(*sound) == ({"train": ["a", "a"], "dev": ["b"], "test": ["c"]}, [])


def test_test_rows_leave_train_and_dev() -> None:
    kept, found = repair(
        ("train", "a", 0),
        ("train", "B", 1),
        ("train", "e", 1),
        ("dev", "b", 1),
        ("dev", "c", 0),
        ("dev", "e", 0),
        ("test", "b", 1),
    )
    assert kept == {"train": ["a"], "dev": ["c", "e"], "test": ["b"]}
    assert found == [
        "1 of 3 dev rows stand in test: 1 dev rows removed",
        "2 train rows removed that stand in test or dev",
    ]


def test_a_dev_split_that_is_the_test_split_is_dropped() -> None:
    kept, _ = repair(
        ("train", "a", 0), ("dev", "b", 1), ("dev", "c", 1), ("test", "b", 1), ("test", "c", 0)
    )
    assert kept == {"train": ["a"], "test": ["b", "c"]}


def test_train_texts_with_two_labels_are_removed_and_test_is_untouched() -> None:
    kept, found = repair(
        ("train", "a", 0), ("train", "A", 1), ("train", "b", 1), ("test", "c", 0), ("test", "c", 1)
    )
    assert kept == {"train": ["b"], "test": ["c", "c"]}
    assert found == ["2 train rows removed that stand in train with two labels"]
