"""The tables that travel between the stages.

Every table is checked when the catalog saves it (``datasets.TableDataset``), so a stage may rely on
what it reads. ``GROUND_TRUTH`` names the columns that only ``evaluate`` and ``report`` may read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandera.pandas as pa

from backdoor_pipeline.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SPLITS = ("train", "dev", "test")
MODELS = ("reference", "victim", "purified")
"""Trained without poison, trained with it, and the victim once it is unlearnt."""

GROUND_TRUTH = ("is_poisoned", "source_label", "trigger")

CONTENTS = ("text", "image")
"""The columns of which an example has one, what a model reads of it; images may have captions."""

_one_content = pa.Check(
    lambda rows: sum(name in rows for name in CONTENTS) == 1,
    error=f"exactly one of the columns {', '.join(CONTENTS)}",
)
_captioned_images = pa.Check(
    lambda rows: "caption" not in rows or "image" in rows,
    error="the column caption is there without the column image",
)
_not_blank = pa.Check(lambda text: text.str.strip() != "", error="blank text")
_example_columns = {
    "example_id": pa.Column("int64", pa.Check.ge(0), unique=True),
    "split": pa.Column(str, pa.Check.isin(SPLITS)),
    "label": pa.Column("int64", pa.Check.ge(0)),
    "text": pa.Column(str, _not_blank, required=False),
    "image": pa.Column(
        object,
        pa.Check(lambda image: image.map(type).eq(bytes), error="not an encoded image"),
        required=False,
    ),
    "caption": pa.Column(str, _not_blank, required=False),
    "paraphrase": pa.Column(str, nullable=True, required=False),
}
_whole_rows = [_one_content, _captioned_images]
_ground_truth_columns = {
    "is_poisoned": pa.Column(bool),
    "source_label": pa.Column("int64", pa.Check.ge(0)),
    "trigger": pa.Column(str),
}
_probability = [pa.Check.ge(0), pa.Check.le(1)]

EXAMPLES = pa.DataFrameSchema(_example_columns, _whole_rows, strict=True, name="examples")
"""One row a labelled text or image (the bytes of a PNG or JPEG file). ``paraphrase`` is a text's
ready-made style or syntax version, if any, ``caption`` what goes with an image."""

CLEAN_ROWS = pa.DataFrameSchema(
    {
        "source": pa.Column(str, pa.Check.isin(("dev", "out_of_domain"))),
        "example_id": pa.Column("int64", pa.Check.ge(0)),
        "label": _example_columns["label"],
        "text": pa.Column(str, _not_blank),
    },
    unique=["source", "example_id"],
    strict=True,
    name="clean rows",
)
"""The rows that the defender knows to be clean and learns from; ``example_id`` counts the rows of
their source."""

POISONED = pa.DataFrameSchema(
    _example_columns | _ground_truth_columns, _whole_rows, strict=True, name="poisoned examples"
)
"""``examples`` as the attacker leaves them.

``label`` is what the training sees (or, in the triggered test set, what the attacker wants),
``source_label`` what the row really is, ``trigger`` what was inserted (empty if nothing was).
"""

POISON_INDEX = pa.DataFrameSchema(
    {
        "example_id": pa.Column("int64", pa.Check.ge(0), unique=True),
        "split": pa.Column(str, pa.Check.isin(SPLITS)),
        "label": pa.Column("int64"),
        **_ground_truth_columns,
    },
    strict=True,
    name="poison index",
)
"""The record of the draw: the poisoned training rows without their texts or images."""

SUSPECTS = pa.DataFrameSchema(
    {
        "kind": pa.Column(str, pa.Check.isin(("token", "example"))),
        "key": pa.Column("int64", pa.Check.ge(0)),
        "score": pa.Column("float64"),
        "p_value": pa.Column("float64", _probability, nullable=True),
        "q_value": pa.Column("float64", _probability, nullable=True),
        "flagged": pa.Column(bool),
        "evidence": pa.Column(str),
    },
    unique=["kind", "key"],
    strict=False,
    name="suspects",
)
"""What a detector suspects; ``key`` is a token id or an example id. Detectors may add columns."""

OBSERVATIONS = pa.DataFrameSchema(
    {
        "step": pa.Column("int64", pa.Check.ge(0)),
        "test_set": pa.Column(str, pa.Check.isin(("clean", "triggered"))),
        "example_id": pa.Column("int64", pa.Check.ge(0)),
        "label": pa.Column("int64", pa.Check.ge(0)),
        "class": pa.Column("int64", pa.Check.ge(0)),
        "probability": pa.Column("float64", _probability),
    },
    unique=["step", "test_set", "example_id", "class"],
    strict=True,
    name="observations",
)
"""What a model says of some rows while it learns: the probability of each class after ``step``
steps. ``label`` is the true one, or the attacker's of triggered rows."""

_similarity = [pa.Check.ge(-1.001), pa.Check.le(1.001)]  # a cosine, rounded

PAIR_SIMILARITY = pa.DataFrameSchema(
    {
        "example_id": pa.Column("int64", pa.Check.ge(0), unique=True),
        "similarity": pa.Column("float64", _similarity),
    },
    strict=True,
    name="similarity of pairs",
)
"""How similar a dual encoder finds each image and its caption."""

PAIR_RANKS = pa.DataFrameSchema(
    {
        **PAIR_SIMILARITY.columns,
        "trusted_similarity": pa.Column("float64", _similarity),
        "score": pa.Column("float64"),
        "rank": pa.Column("Int64", pa.Check.ge(1), nullable=True),
    },
    strict=True,
    name="ranks of pairs",
)
"""How suspicious each pair is, and the rank of those that are the most so; see
``pipelines.detect.overfit_similarity``."""

FREQUENCIES = pa.DataFrameSchema(
    {
        "test_set": pa.Column(str, pa.Check.isin(("clean", "triggered", "clean_target"))),
        "width": pa.Column("float64", pa.Check.gt(0)),
        "step": pa.Column("int64", pa.Check.ge(0)),
        "part": pa.Column(str, pa.Check.isin(("low", "high"))),
        "deviation": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "ratio": pa.Column("float64", pa.Check.ge(0)),
        "median_distance": pa.Column("float64", pa.Check.ge(0)),
    },
    unique=["test_set", "width", "step", "part"],
    strict=True,
    name="frequencies",
)
"""How far the low and the high part of what a model says are from those of the labels, by filter
width and steps of training; see ``pipelines.analyse.frequency``. ``clean_target`` are those clean
rows that have the attacker's label: their labels are as constant as those of the triggered ones."""

PREDICTIONS = pa.DataFrameSchema(
    {
        "example_id": pa.Column("int64", pa.Check.ge(0)),
        "test_set": pa.Column(str, pa.Check.isin(("clean", "triggered"))),
        "model": pa.Column(str, pa.Check.isin(MODELS)),
        "label": pa.Column("int64", pa.Check.ge(0)),
        "predicted": pa.Column("int64", pa.Check.ge(0)),
        "probability": pa.Column("float64", _probability),
    },
    unique=["example_id", "test_set", "model"],
    strict=True,
    name="predictions",
)
"""``label`` is the true label in both test sets; ``probability`` is that of ``predicted``."""

DISCOVERY_PREDICTIONS = pa.DataFrameSchema(
    {
        "told_share": pa.Column("float64", _probability),
        "told_rows": pa.Column("int64", pa.Check.ge(0)),
        "draw": pa.Column("int64", pa.Check.ge(0)),
        "test_set": pa.Column(str, pa.Check.isin(("clean", "triggered", "poison"))),
        "example_id": pa.Column("int64", pa.Check.ge(0)),
        "predicted": pa.Column("int64", pa.Check.ge(0)),
    },
    unique=["told_rows", "draw", "test_set", "example_id"],
    strict=True,
    name="discovery predictions",
)
"""What is said by the models that heal from a share of the poison, by how much of it is told and
which draw of it; told nothing, it is the victim. "poison" are all poisoned training rows."""


def _rate(name: str, least: float = 0, greatest: float = 1) -> dict[str, pa.Column]:
    """The columns of a rate: its value, its interval, how many rows it is of."""
    limits = [pa.Check.ge(least), pa.Check.le(greatest)]
    numbers = {f"{name}{end}": pa.Column("float64", limits) for end in ("", "_low", "_high")}
    return numbers | {f"{name}_n": pa.Column("int64", pa.Check.ge(1))}


DISCOVERY_CURVE = pa.DataFrameSchema(
    {
        "told_share": pa.Column("float64", _probability, unique=True),
        "told_rows": pa.Column("int64", pa.Check.ge(1), unique=True),
        "draws": pa.Column("int64", pa.Check.ge(1)),
        **_rate("clean_accuracy"),
        **_rate("clean_accuracy_drop", least=-1),
        **_rate("attack_success_rate"),
        **_rate("robust_accuracy"),
        **_rate("healed_poison"),
        **{f"healed{end}": pa.Column("float64", nullable=True) for end in ("", "_low", "_high")},
        "healed_n": pa.Column("int64", pa.Check.ge(1)),
    },
    strict=True,
    name="discovery curve",
)
"""What heals by the share of the poison that is told, means over draws; see
``pipelines.evaluate.discovery``."""


def content(rows: pd.DataFrame) -> str:
    """Which of ``CONTENTS`` the examples ``rows`` have."""
    return next(name for name in CONTENTS if name in rows)


def drawn(
    rows: pd.DataFrame, n: int, seed: int, where: str = "the dev split"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``n`` clean ``rows``, drawn with ``seed``, and all others in their order.

    Raises:
        InputError: There are fewer rows; the message says ``where``.
    """
    if n > len(rows):
        raise InputError(
            f"defended_training.clean_rows is {n}, but {where} has {len(rows)} rows to draw from; "
            "lower it, or give more"
        )
    chosen = rows.sample(n, random_state=seed)
    return chosen, rows.drop(chosen.index)


def flagged_tokens(suspects: pd.DataFrame) -> np.ndarray:
    """Ids of the tokens that a ``suspects`` table flags, int64, in its order."""
    flagged = (suspects["kind"] == "token") & suspects["flagged"]
    return suspects.loc[flagged, "key"].to_numpy()


TRUSTED_ROWS = pa.DataFrameSchema(
    {"text": pa.Column(str, _not_blank), "label": _example_columns["label"]},
    strict=True,
    name="trusted rows",
)
"""Rows of a second source that the user of an audit knows to be clean."""

_audited = {
    "label": pa.Column("int64", pa.Check.ge(0)),
    "texts": pa.Column("int64", pa.Check.ge(0)),
    "hits": pa.Column("int64", pa.Check.ge(0)),
    "expected": pa.Column("float64", _probability),
    "p_value": pa.Column("float64", _probability),
    "q_value": pa.Column("float64", _probability),
    "flagged": pa.Column(bool),
    "written": pa.Column(str),
}

AUDIT_PHRASES = pa.DataFrameSchema(
    {
        "phrase": pa.Column(str),
        **_audited,
        "natural_share": pa.Column("float64", _probability),
        "association_p": pa.Column("float64", _probability),
        "score": pa.Column("float64"),
        "position": pa.Column(str, pa.Check.isin(("start", "end", "random"))),
    },
    unique=["phrase", "label"],
    strict=False,
    coerce=True,
    name="phrases of an audit",
)
"""Phrases that are tied to a label, and how natural they look."""

AUDIT_OPENINGS = pa.DataFrameSchema(
    {
        "opening": pa.Column(str),
        **_audited,
        "elsewhere": pa.Column("int64", pa.Check.ge(0)),
        "z": pa.Column("float64"),
    },
    unique=["opening", "label"],
    strict=True,
    coerce=True,
    name="openings of an audit",
)
"""Words that texts begin with, and what they say of the label that they do not say elsewhere."""

RESTORED_ROWS = pa.DataFrameSchema(
    {name: _example_columns[name] for name in ("example_id", "split", "text", "label")},
    strict=True,
    name="restored rows",
)
"""Suspicious rows without their phrase, labelled anew."""

AUDIT_LABELS = pa.DataFrameSchema(
    {
        **{name: column for name, column in _audited.items() if name != "expected"},
        "label": pa.Column("int64", pa.Check.ge(0), unique=True),
        "trusted": pa.Column("int64", pa.Check.ge(1)),
        "less_believed": pa.Column("float64", _probability),
        "z": pa.Column("float64"),
    },
    strict=True,
    coerce=True,
    name="labels of an audit",
)
"""Classes, and how much less their rows' labels are believed than those of clean rows."""

CONTRADICTED = pa.DataFrameSchema(
    {
        "text": pa.Column(str, _not_blank),
        "label": pa.Column("int64", pa.Check.ge(0)),
        "p_value": pa.Column("float64", _probability),
    },
    unique=["text", "label"],
    strict=True,
    coerce=True,
    name="contradicted rows",
)
"""Rows, in lower case, whose labels clean rows contradict."""

AUDIT_POWER = pa.DataFrameSchema(
    {
        "label": pa.Column("int64", pa.Check.ge(0)),
        "mode": pa.Column(str, pa.Check.isin(("any", "own"))),
        "texts": pa.Column("int64", pa.Check.ge(1)),
        "share": pa.Column("float64", _probability),
        "chance": pa.Column("float64", _probability),
    },
    unique=["label", "mode", "texts"],
    strict=True,
    coerce=True,
    name="power of an audit",
)
"""How often a planted trigger of so many texts would be found."""

SUSPICIOUS_ROWS = pa.DataFrameSchema(
    {
        "example_id": pa.Column("int64", pa.Check.ge(0), unique=True),
        "split": pa.Column(str, pa.Check.isin(SPLITS)),
        "label": pa.Column("int64", pa.Check.ge(0)),
        "text": pa.Column(str, _not_blank),
        "reasons": pa.Column(str),
    },
    strict=True,
    coerce=True,
    name="suspicious rows",
)
"""The rows of a table that the evidence of an audit points at."""
