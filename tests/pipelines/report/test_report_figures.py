from __future__ import annotations

import json

import numpy as np
import pandas as pd
import plotly.io
import pytest

from backdoor_pipeline.pipelines.report import figures
from backdoor_pipeline.pipelines.report.nodes import draw_figures

NAMES = {"before_after_figure", "drift_figure", "association_figure", "training_figure"}
DRIFT = [f"{kind}_{r}" for kind in ("drift", "rank") for r in "abc"]
ASSOCIATION = ["residual_z", "independence_auc", "purity", "phrase", "label"]


def draw(cell):
    return draw_figures(
        cell["metrics"], cell["suspects"], cell["victim_history"], cell["reference_history"]
    )


def text_of(figure) -> str:
    return figure.to_json()


def n_points(figure) -> int:
    return sum(len(trace.x) for trace in figure.data if trace.x is not None)


def test_figures_survive_json_with_titles_on_every_axis(cell):
    drawn = draw(cell)
    assert drawn.keys() == NAMES
    for name, figure in drawn.items():
        again = plotly.io.from_json(figure.to_json())
        assert again.data and again.layout.title.text, name
        assert again.layout.xaxis.title.text or name == "before_after_figure"
        assert again.layout.yaxis.title.text, name
        assert "http" not in figure.to_json()


def test_before_after_shows_intervals_and_floor(cell):
    figure = figures.before_after_figure(cell["metrics"])
    bars = {(bar.x[0], bar.xaxis): bar for bar in figure.data}
    victim = bars["victim", "x2"]
    assert victim.y[0] == pytest.approx(100)
    assert victim.error_y.arrayminus[0] == pytest.approx(1.8)
    assert [line.y0 for line in figure.layout.shapes] == pytest.approx([20.5])


def test_before_after_leaves_out_what_was_not_measured(cell):
    metrics = cell["metrics"] | {"reference": {}}
    metrics["purified"]["attack_success_rate"] = None
    figure = figures.before_after_figure(metrics)
    assert len(figure.data) == 3
    assert not figure.layout.shapes


def test_drift_thresholds_follow_from_the_scores(cell):
    thresholds = figures.drift_thresholds(cell["suspects"])
    assert thresholds == pytest.approx({"drift_a": 1e-3, "drift_b": 9e-4, "drift_c": 8e-4})
    figure = figures.drift_figure(cell["suspects"])
    assert "threshold" in figure.layout.yaxis.title.text
    assert [line.y0 for line in figure.layout.shapes] == [1.0]


def test_no_threshold_is_drawn_where_scores_are_of_another_kind(cell):
    rng = np.random.default_rng(1)
    suspects = cell["suspects"].assign(score=rng.random(len(cell["suspects"])))
    assert figures.drift_thresholds(suspects) == {}
    figure = figures.drift_figure(suspects)
    assert "largest" in figure.layout.yaxis.title.text
    assert not figure.layout.shapes


@pytest.mark.parametrize("rounds", [["drift_a"], ["drift_a", "drift_c"]])
def test_any_number_of_rounds_is_drawn(cell, rounds):
    others = [f"drift_{r}" for r in "abc" if f"drift_{r}" not in rounds]
    figure = figures.drift_figure(cell["suspects"].drop(columns=others))
    assert sum(trace.mode == "markers" for trace in figure.data) == len(rounds)


def test_flagged_tokens_are_named_and_all_can_be_hovered(cell):
    drawn = draw(cell)
    for name in ("drift_figure", "association_figure"):
        named = [t for trace in drawn[name].data if "text" in trace.mode for t in trace.text]
        assert set(named) == {"cf"}
        assert "<b>dull</b>" in text_of(drawn[name]).replace("\\u003c", "<").replace(
            "\\u003e", ">"
        ).replace("\\u002f", "/")


def test_tokens_cannot_bring_markup(cell):
    suspects = cell["suspects"]
    suspects.loc[0, "evidence"] = '<a href="javascript:x">&'
    for figure in (figures.drift_figure(suspects), figures.association_figure(suspects)):
        texts = [t for trace in figure.data for t in trace.text]
        assert not any("<a" in text for text in texts)
        assert any("&lt;a href" in text and "&amp;" in text for text in texts)


@pytest.mark.parametrize(
    ("missing", "name", "why"),
    [
        (DRIFT, "drift_figure", "not found by token drift"),
        (ASSOCIATION, "association_figure", "btu_calibrated"),
    ],
)
def test_missing_columns_give_an_empty_figure_that_says_why(cell, missing, name, why):
    suspects = cell["suspects"].drop(columns=missing)
    drawn = draw(cell | {"suspects": suspects})
    assert why in text_of(drawn[name])
    assert not drawn[name].data


def test_association_without_drift_uses_the_count(cell):
    figure = figures.association_figure(cell["suspects"].drop(columns=DRIFT))
    assert figure.layout.xaxis.title.text == "training texts that hold the token"
    assert figure.layout.xaxis.type == "log"


def test_association_without_independence_has_one_panel(cell):
    figure = figures.association_figure(cell["suspects"].assign(independence_auc=np.nan))
    assert {trace.xaxis for trace in figure.data} <= {None, "x"}


def test_no_suspects_at_all(cell):
    drawn = draw(cell | {"suspects": cell["suspects"].head(0)})
    assert not drawn["drift_figure"].data
    assert not drawn["association_figure"].data


def test_large_vocabularies_and_long_runs_are_thinned(cell):
    many = pd.concat([cell["suspects"]] * 1000, ignore_index=True)
    many = many.assign(key=np.arange(len(many)))
    steps = list(range(50_000))
    long = {"loss": {"step": steps, "value": [1.0] * 50_000}}
    drawn = draw(cell | {"suspects": many, "victim_history": long, "reference_history": long})
    for name, figure in drawn.items():
        assert n_points(figure) <= 4000, name
        assert len(figure.to_json()) < 700_000, name
    assert "mean of 125 steps" in drawn["training_figure"].layout.yaxis.title.text


def test_training_keeps_short_curves_as_they_are(cell):
    figure = figures.training_figure(cell["victim_history"], {"loss": {"step": [], "value": []}})
    loss, accuracy = figure.data[0], figure.data[1]
    assert loss.y == pytest.approx(cell["victim_history"]["loss"]["value"], abs=1e-5)
    assert accuracy.y == pytest.approx([81, 83])
    assert json.loads(figure.to_json())["layout"]["yaxis"]["title"]["text"] == "loss"
