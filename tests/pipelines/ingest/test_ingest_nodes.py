from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kedro.io import DataCatalog
from kedro.runner import SequentialRunner
from pydantic import ValidationError

from backdoor_pipeline import schemas
from backdoor_pipeline.datasets.sources import Finding, Source, SourceParams, read
from backdoor_pipeline.errors import InputError
from backdoor_pipeline.pipelines.ingest.nodes import IngestParams, ingest
from backdoor_pipeline.pipelines.ingest.pipeline import create_pipeline


def params(**changes: object) -> IngestParams:
    given = {"dev_share": 0.1, "test_share": 0.2, "paraphrase": "none"}
    return IngestParams(**(given | changes))


def table(n_rows: int, start: int = 0, **columns: list) -> pd.DataFrame:
    numbers = range(start, start + n_rows)
    frame = pd.DataFrame(
        {"text": [f"text {i}" for i in numbers], "label": [i % 2 for i in numbers]}
    )
    return frame.assign(**columns)


def source(repaired: bool = False, **tables: pd.DataFrame) -> Source:
    return Source("toy", tables, {"toy.csv": "0"}, repaired=repaired)


def test_shipped_splits_keep_rows_order_and_ids() -> None:
    out = ingest(source(test=table(4, 10), train=table(6), dev=table(2, 20)), params(), 0)
    examples = schemas.EXAMPLES.validate(out["examples"])
    assert examples["split"].tolist() == ["train"] * 6 + ["dev"] * 2 + ["test"] * 4
    assert examples["example_id"].tolist() == list(range(12))
    assert examples["text"].iloc[6] == "text 20"
    assert out["integrity"]["label_names"] == ["0", "1"]


def test_missing_splits_are_cut_with_the_classes_in_proportion() -> None:
    out = ingest(source(train=table(1000)), params(), 0)
    examples = out["examples"]
    counts = examples.groupby("split")["label"].agg(["size", "mean"])
    assert counts["size"].to_dict() == {"train": 720, "dev": 80, "test": 200}
    assert counts["mean"].tolist() == [0.5] * 3
    assert out["integrity"]["splits"]["test"] == {
        "rows_read": 0,
        "rows": 200,
        "classes": {"0": 100, "1": 100},
    }


def test_the_seed_moves_the_splits_and_not_the_ids() -> None:
    first, again, other = (
        ingest(source(train=table(200)), params(), seed)["examples"] for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(first, again)
    assert (first["text"] == other["text"]).all()
    assert (first["split"] != other["split"]).any()


def test_no_group_stands_in_two_splits() -> None:
    groups = [f"film {i // 5}" for i in range(200)]
    examples = ingest(source(train=table(200, group=groups)), params(), 0)["examples"]
    films = pd.Series(groups)[examples["example_id"]].reset_index(drop=True)
    assert examples.groupby(films)["split"].nunique().max() == 1
    assert set(examples["split"]) == {"train", "dev", "test"}
    assert "group" not in examples


@pytest.mark.parametrize("seed", range(3))
def test_a_cut_by_group_has_the_labels_in_proportion(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares = np.repeat(rng.beta(2, 2, 300), 10)  # of the films that the critics liked
    frame = table(3000, group=[f"film {i // 10}" for i in range(3000)])
    frame["label"] = (rng.random(3000) < shares).astype(int)
    examples = ingest(source(train=frame), params(), seed)["examples"]
    means = examples.groupby("split")["label"].mean()
    assert means.max() - means.min() < 0.012


@settings(max_examples=40)
@given(
    numbers=st.lists(st.integers(0, 30), min_size=30, max_size=80),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_text_stands_in_two_splits_cut(numbers: list[int], seed: int) -> None:
    frame = pd.DataFrame(
        {"text": [f"A  text {n}" if n % 2 else f"a text {n}" for n in numbers], "label": numbers}
    ).assign(label=[i % 3 for i in range(len(numbers))])
    if frame["text"].nunique() < 10:
        return
    examples = ingest(source(train=frame), params(), seed)["examples"]
    assert len(examples) == len(frame)
    assert examples.groupby("text")["split"].nunique().max() == 1
    assert set(examples["split"]) == {"train", "dev", "test"}


def test_max_rows_caps_each_split_with_the_classes_in_proportion() -> None:
    frame = table(1000).assign(label=[int(i % 5 == 0) for i in range(1000)])
    examples = ingest(source(train=frame), params(max_rows=50), 0)["examples"]
    assert examples["split"].value_counts().to_dict() == {"train": 50, "dev": 50, "test": 50}
    assert examples.groupby("split")["label"].sum().tolist() == [10, 10, 10]
    assert examples["example_id"].is_monotonic_increasing


def test_whitespace_is_normalised_for_all_rows_alike() -> None:
    frame = table(40).assign(text=[f" a\tb \n c {i} " for i in range(40)])
    examples = ingest(source(train=frame), params(), 0)["examples"]
    assert examples["text"].tolist() == [f"a b c {i}" for i in range(40)]


def test_the_chosen_paraphrase_is_attached() -> None:
    frame = table(40, style=[None] + [f"lo,  {i}" for i in range(39)], syntax=["s"] * 40)
    out = ingest(source(train=frame), params(paraphrase="style"), 0)
    examples = schemas.EXAMPLES.validate(out["examples"])
    assert examples["paraphrase"].isna().sum() == 1
    assert examples["paraphrase"].iloc[1] == "lo, 0"
    assert sum(split["paraphrases"] for split in out["integrity"]["splits"].values()) == 39
    assert "paraphrase" not in ingest(source(train=frame), params(), 0)["examples"]


BAD = {
    "one class": (
        source(train=table(20).assign(label="pos")),
        {},
        "train: all rows have the label 'pos'",
    ),
    "one class in train": (
        source(train=table(5).assign(label=1), test=table(5, 9)),
        {},
        "train: all rows have the label '1'",
    ),
    "no rows": (source(train=table(0)), {}, "no rows"),
    "no tables": (source(), {}, "no rows"),
    "no train": (source(dev=table(5), test=table(5)), {}, "no training rows"),
    "nothing left after repair": (
        source(repaired=True, train=table(5), test=table(5)),
        {},
        "no training rows",
    ),
    "too few texts": (source(train=table(1)), {}, "too few different rows"),
    "one repeated text": (
        source(train=table(9).assign(text="same")),
        {},
        "too few different rows",
    ),
    "blank text": (
        source(train=table(9).assign(text=["x"] * 8 + ["\x1c \u2003"])),
        {},
        "example 8 is blank",
    ),
    "null label": (
        source(train=table(9).assign(label=[0.0] * 8 + [None])),
        {},
        "example 8 is missing",
    ),
    "measurements as labels": (
        source(train=table(60).assign(label=[i / 7 for i in range(60)])),
        {},
        "source.label",
    ),
    "no paraphrases": (source(train=table(9)), {"paraphrase": "style"}, "has no style paraphrases"),
    "null paraphrases": (
        source(train=table(9, syntax=[None] * 9)),
        {"paraphrase": "syntax"},
        "has no syntax paraphrases",
    ),
    "label without name": (
        Source("toy", {"train": table(9).assign(label=7)}, {}, label_names=("a", "b")),
        {},
        "label '7' is unknown",
    ),
    "an error that the reader found": (
        Source("toy", {"train": table(40)}, {}, [Finding("error", "t.csv", "is odd")]),
        {},
        "t.csv: is odd",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sources_give_one_clear_error(case: str) -> None:
    found, changes, expected = BAD[case]
    with pytest.raises(InputError) as error:
        ingest(found, params(**changes), 0)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"dev_share": 0},
        {"test_share": 1},
        {"dev_share": 0.5, "test_share": 0.5},
        {"max_rows": 1},
        {"paraphrase": "poem"},
        {"dev_shares": 0.1},
    ],
)
def test_bad_parameters_are_refused(changes: dict) -> None:
    with pytest.raises(ValidationError):
        params(**changes)


def test_the_pipeline_runs_in_memory() -> None:
    catalog = DataCatalog()
    catalog["raw_source"] = source(train=table(40))
    catalog["params:ingest"] = params()
    catalog["params:seed"] = 0
    out = SequentialRunner().run(create_pipeline(), catalog)
    schemas.EXAMPLES.validate(out["examples"].load())
    assert json.loads(json.dumps(out["integrity"].load()))["dataset"] == "toy"


def test_the_published_hsol_is_repaired() -> None:
    folder = Path(os.environ.get("BACKDOOR_DATA", "../shared/data"))
    if not (folder / "openbackdoor" / "Toxic" / "hsol").is_dir():
        pytest.skip(f"no published data sets at {folder}: set BACKDOOR_DATA to their folder")
    given = {"folder": str(folder), "text": "text", "label": "label"}
    paper, repaired = (
        ingest(read(SourceParams(dataset=name, **given)), params(), 0)
        for name in ("hsol@paper", "hsol@repaired")
    )
    assert paper["examples"]["split"].value_counts().to_dict() == {
        "train": 5823,
        "dev": 2485,
        "test": 2485,
    }
    warnings = [f["message"] for f in paper["integrity"]["findings"] if f["severity"] == "warning"]
    assert any("are the same file" in message for message in warnings)
    assert not any("known set has" in message for message in warnings)
    assert all(file["known"] in (True, None) for file in paper["integrity"]["files"].values())

    examples = repaired["examples"].assign(key=lambda rows: rows["text"].str.lower())
    by_split = {split: set(part["key"]) for split, part in examples.groupby("split")}
    assert not by_split["train"] & by_split["test"]
    assert not by_split["dev"] & (by_split["test"] | by_split["train"])
    same = paper["examples"].set_index("example_id")["text"]
    assert (examples.set_index("example_id")["text"] == same[examples["example_id"]]).all()
    assert (examples["split"] == "test").sum() == 2485
