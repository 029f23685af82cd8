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
BOUNDS = ["neighbour_bound", "context_bound"]


def draw(cell):
    names = ("metrics", "all_parameters", "suspects", "victim_history", "reference_history")
    return draw_figures(**{name: cell[name] for name in names})


def test_without_suspects_none_are_drawn(cell) -> None:
    assert set(draw(cell | {"suspects": None})) == {"before_after_figure", "training_figure"}


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


def test_drift_threshold_parts_raised_tokens_from_the_others(cell):
    suspects = cell["suspects"]
    thresholds = figures.drift_thresholds(suspects)
    above = (suspects[list(thresholds.index)] > thresholds).any(axis=1)
    assert above.equals(suspects["flagged"])
    figure = figures.drift_figure(suspects)
    assert [line.y0 for line in figure.layout.shapes] == [1.0]


def test_a_confirmed_table_says_what_was_raised(cell):
    raised = cell["suspects"]["drift_a"] > cell["suspects"]["drift_a"].median()
    suspects = cell["suspects"].assign(raised=raised)
    threshold = figures.drift_thresholds(suspects)["drift_a"]
    assert (suspects["drift_a"] > threshold).equals(raised)


@pytest.mark.parametrize("flagged", [True, False])
def test_drift_is_drawn_whether_all_or_none_are_raised(cell, flagged):
    suspects = cell["suspects"].assign(flagged=flagged, drift_b=0.0)
    assert np.isfinite(figures.drift_thresholds(suspects)).all()
    heights = [y for trace in figures.drift_figure(suspects).data for y in trace.y]
    assert np.isfinite(heights).all() and max(heights) == 1


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


def test_suspects_without_drift_give_an_empty_figure_that_says_why(cell):
    drawn = draw(cell | {"suspects": cell["suspects"].drop(columns=DRIFT)})
    assert "not found by token drift" in text_of(drawn["drift_figure"])
    assert not drawn["drift_figure"].data


def test_suspects_without_association_give_an_empty_figure_that_says_why(cell):
    drawn = draw(cell | {"suspects": cell["suspects"].assign(p_value=np.nan)})
    assert "btu_calibrated" in text_of(drawn["association_figure"])
    assert not drawn["association_figure"].data


def test_association_shows_drift_and_misfit_with_their_limits(cell):
    figure = draw(cell)["association_figure"]
    assert [line.x0 for line in figure.layout.shapes] == [1.0, 0.5]
    flagged = {trace.xaxis: trace for trace in figure.data if trace.name == "flagged"}
    assert flagged["x"].y == (12.0,)
    assert flagged["x2"].x == (0.2,)


def test_association_without_drift_uses_the_count(cell):
    figure = figures.association_figure(cell["suspects"].drop(columns=DRIFT))
    assert figure.layout.xaxis.title.text == "training texts that hold it"
    assert figure.layout.xaxis.type == "log"


def test_association_without_judged_tokens_has_one_panel(cell):
    for suspects in (cell["suspects"].drop(columns=BOUNDS), cell["suspects"].assign(
        neighbour_bound=np.nan, context_bound=np.nan
    )):  # fmt: skip
        figure = figures.association_figure(suspects, 0.5)
        assert {trace.xaxis for trace in figure.data} == {"x"}


def test_vanishing_p_values_are_drawn(cell):
    figure = figures.association_figure(cell["suspects"].assign(p_value=0.0))
    assert max(y for trace in figure.data for y in trace.y) == 300


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


@pytest.fixture
def search(image_cell):
    """The record of a search."""
    return image_cell["trigger_search_record"]


def test_a_search_is_drawn_where_there_was_one(cell, search):
    names = ("metrics", "all_parameters", "suspects", "victim_history")
    given = {name: cell[name] for name in names}
    assert "search_figure" not in draw_figures(**given)
    assert "search_figure" in draw_figures(**given, trigger_search_record=search)


def test_the_search_shows_both_curves_and_the_step_taken(search):
    figure = figures.search_figure(search, 0.2)
    share, accuracy = figure.data
    assert accuracy.y == pytest.approx([90, 60, 60, 10])
    assert share.y[0] is None  # a logarithm
    assert share.y[1:] == pytest.approx([0.1, 0.1, 2])
    assert accuracy.x == share.x == (0, 1, 2, 3)
    assert (accuracy.yaxis, share.yaxis) == ("y", "y2")
    taken, enough = figure.layout.shapes
    assert (taken.x0, enough.y0, enough.yref) == (3, pytest.approx(18), "y")
    assert [size for size in accuracy.marker.size if size > 4] == [accuracy.marker.size[3]]
    assert len(figures.search_figure(search).layout.shapes) == 1


@pytest.mark.parametrize(("share", "step"), [(0.001, 1), (0.0, 0)])
def test_of_steps_with_one_model_the_first_was_taken(search, share, step):
    search |= {"converged": False, "share": share}
    assert figures.search_figure(search).layout.shapes[0].x0 == step


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"steps": 0, "search": {}}, "no rows to forget"),
        ({"steps": 0}, "no rows to forget"),
        ({"steps": 0, "unassigned_rows": 2, "search": {}}, "gives none of the rows to forget"),
    ],
)
def test_a_search_for_nothing_gives_an_empty_figure_that_says_why(record, why):
    figure = figures.search_figure(record)
    assert why in text_of(figure)
    assert not figure.data


@pytest.mark.parametrize("converged", [True, False])
def test_a_search_without_success_says_so(search, converged):
    figure = figures.search_figure(search | {"converged": converged})
    assert ("did not get there" in text_of(figure)) != converged


def test_training_keeps_short_curves_as_they_are(cell):
    figure = figures.training_figure(
        {"victim": cell["victim_history"], "reference": {"loss": {"step": [], "value": []}}}
    )
    loss, accuracy = figure.data[0], figure.data[1]
    assert loss.y == pytest.approx(cell["victim_history"]["loss"]["value"], abs=1e-5)
    assert accuracy.y == pytest.approx([81, 83])
    assert json.loads(figure.to_json())["layout"]["yaxis"]["title"]["text"] == "loss"
