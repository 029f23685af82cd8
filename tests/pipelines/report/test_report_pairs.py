"""What the report shows of pairs: who stands out, what is forgotten, captions with blamed words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from backdoor_pipeline.modelling.pixels import encode
from backdoor_pipeline.pipelines.report import evidence, figures
from backdoor_pipeline.pipelines.report.nodes import draw_figures
from backdoor_pipeline.pipelines.report.params import ReportParams


@pytest.fixture
def suspects() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 2000
    return pd.DataFrame(
        {
            **{"kind": "example", "key": range(n), "p_value": np.nan, "q_value": np.nan},
            **{"score": np.linspace(1, -1, n), "flagged": [True] * 3 + [False] * (n - 3)},
            "evidence": [f"a <b>cat</b> number {i}" for i in range(n)],
            **{"exposed": [True] * 20 + [False] * (n - 20)},
            **{"trusted_similarity": rng.uniform(-1, 1, n)},
            "blamed": ["cat"] * 20 + [""] * (n - 20),
        }
    )


@pytest.fixture
def record() -> dict:
    curve = {"step": [1, 2, 3], "value": [0.8, 0.5, 0.1]}
    return {"unrelated": 0.2, "forgetting": {"similarity": curve, "drift": curve}}


def test_pairs_are_drawn_by_what_became_of_them(suspects) -> None:
    others, first, flagged = figures.similarity_figure(suspects).data
    assert len(others.x) == figures.PAIRS_DRAWN
    assert len(first.x) == 17
    assert flagged.x == pytest.approx(suspects["trusted_similarity"][:3])
    assert flagged.y == pytest.approx(suspects["score"][:3])
    assert flagged.text[0] == "a &lt;b&gt;cat&lt;/b&gt; number 0"


def test_the_forgetting_is_drawn_with_what_is_unrelated(record) -> None:
    figure = figures.forgetting_figure(record)
    drift, similarity = figure.data
    assert similarity.y == pytest.approx([0.8, 0.5, 0.1])
    assert (similarity.yaxis, drift.yaxis) == ("y", "y2")
    assert figure.layout.shapes[0].y0 == 0.2


@pytest.mark.parametrize("curves", [{}, None])
def test_of_nothing_forgotten_the_figure_says_so(curves) -> None:
    figure = figures.forgetting_figure({"forgetting": curves})
    assert not figure.data
    assert "nothing to forget" in figure.to_json()


def test_they_are_drawn_where_there_are_any(cell, suspects, record) -> None:
    given = {name: cell[name] for name in ("metrics", "all_parameters", "victim_history")}
    drawn = draw_figures(
        **given, suspects=suspects, of_tokens=False, local_forgetting_record=record
    )
    assert {"similarity_figure", "forgetting_figure"} <= drawn.keys()
    assert "drift_figure" not in drawn
    without = draw_figures(**given, suspects=suspects.drop(columns="trusted_similarity"),
                           of_tokens=False)  # fmt: skip
    assert not {"similarity_figure", "forgetting_figure"} & without.keys()


def test_captions_have_the_blamed_word_marked(suspects, make_parameters) -> None:
    params: ReportParams = make_parameters().report
    image = encode(np.zeros((8, 8, 3), dtype=np.uint8))
    train = pd.DataFrame(
        {"example_id": range(2000), "image": [image] * 2000, "is_poisoned": [True] * 2000}
    )
    shown = evidence.suspect_rows(suspects, train, params).rows
    assert shown[0]["caption"] == "a &lt;b&gt;<mark>cat</mark>&lt;/b&gt; number 0"
    told = evidence.suspect_rows(suspects.drop(columns="blamed"), train, params).rows
    assert told[0]["caption"] is None
