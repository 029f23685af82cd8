from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.io
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plotly.graph_objects import Figure

from backdoor_pipeline.experiments import statistics
from backdoor_pipeline.experiments.leaderboard import average_ranks, leaderboard, scores
from backdoor_pipeline.experiments.leaderboard_figures import (
    alike,
    before_after_figure,
    critical_difference_figure,
    frontier_figure,
    unbeaten,
)
from backdoor_pipeline.experiments.statistics import mean_interval
from made_up_grid import cell, failed, table


def said(figure) -> list[str]:
    return [annotation.text for annotation in figure.layout.annotations]


def ranked(n_recipes: int, n_settings: int, n_seeds: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return table(
        *(
            cell(recipe=f"r{recipe}", attack=f"{attack}", seed=seed, attack_success_excess=excess)
            for recipe in range(n_recipes)
            for attack, noise in enumerate(rng.random(n_settings) / 10)
            for seed, excess in enumerate([0.05 * recipe + noise] * n_seeds)
        )
    )


class TestBeforeAfter:
    def test_arrows_lead_from_victim_to_purified(self):
        figure = before_after_figure(leaderboard(table(cell(), cell(attack="addsent"))))
        arrow = next(trace for trace in figure.data if trace.marker.symbol == "arrow")
        assert arrow.x[:2] == (100, 20) and arrow.y[:2] == (90, 88) and np.isnan(arrow.x[2])
        assert len(arrow.x) == 6

    def test_one_panel_a_data_set_and_one_colour_a_recipe(self, grid):
        figure = before_after_figure(leaderboard(grid))
        assert said(figure) == ["sst2", "hsol@repaired"]
        arrows = [trace for trace in figure.data if trace.marker.symbol == "arrow"]
        colours = {trace.legendgroup: trace.line.color for trace in arrows}
        assert len(arrows) == 6 and len(set(colours.values())) == 3

    def test_floors_are_marked(self, grid):
        figure = before_after_figure(leaderboard(grid))
        assert len(figure.layout.shapes) == 5  # three attacks, and two that were implanted
        floors = leaderboard(grid).loc[:0, "attack_success_floor"]
        assert figure.layout.shapes[0].x0 == pytest.approx(100 * floors[0])

    def test_pointer_shows_the_numbers(self):
        rows = [cell(seed=seed, attack_success_rate=rate) for seed, rate in enumerate((0.1, 0.2))]
        told = before_after_figure(leaderboard(table(*rows))).data[1].hovertext[0]
        assert "<b>btu</b>, badnets, 2 seeds" in told
        _, low, high, _ = mean_interval([0.1, 0.2], lowest=0, highest=1)
        assert f"100.0 % → 15.0 % [{100 * low:.1f}, {100 * high:.1f}]" in told
        assert "floor 10.0 %" in told

    def test_settings_that_differ_have_symbols_of_their_own(self):
        rows = table(cell(), cell(poison_rate=0.05))
        names = [trace.name for trace in before_after_figure(leaderboard(rows)).data if trace.name]
        assert names == ["btu", "badnets, 10 %", "badnets, 5 %"]

    def test_without_a_valid_cell_it_says_so(self):
        figure = before_after_figure(leaderboard(table(cell(valid=False), failed(seed=1))))
        assert said(figure) == ["no cell in which an attack was implanted"]


class TestFrontier:
    def test_a_point_is_the_mean_over_settings(self):
        rows = [
            cell(recipe=recipe, attack=attack, attack_success_rate=rate, clean_accuracy=accuracy)
            for recipe, accuracy in (("weak", 0.9), ("strong", 0.8))
            for attack, rate in (("badnets", 0.19), ("addsent", 0.37 if recipe == "weak" else 0.1))
        ]
        points = {
            trace.legendgroup: (trace.x[0], trace.y[0])
            for trace in frontier_figure(table(*rows)).data
            if trace.hovertext
        }
        assert points["weak"] == pytest.approx((100 * (0.1 + 0.3) / 2, 90))
        assert points["strong"] == pytest.approx((100 * (0.1 + 0.0) / 2, 80))
        assert points["undefended"] == pytest.approx((100, 90))

    def test_only_cells_that_all_recipes_have(self):
        rows = [cell(recipe="a"), cell(recipe="b"), cell(recipe="b", attack="addsent", valid=False)]
        rows.append(cell(recipe="a", attack="addsent", clean_accuracy=0.1))
        rows.append(cell(recipe="a", seed=1, clean_accuracy=0.1))
        figure = frontier_figure(table(*rows))
        assert {trace.y[0] for trace in figure.data if trace.hovertext} == {88, 90}
        assert said(figure) == ["sst2, 1 cell that all recipes have"]

    def test_the_line_joins_what_is_not_beaten(self):
        rows = [
            cell(recipe="best", attack_success_rate=0.1, clean_accuracy=0.8),
            cell(recipe="beaten", attack_success_rate=0.5, clean_accuracy=0.7),
            cell(recipe="dear", attack_success_rate=0.5, clean_accuracy=0.85),
        ]
        figure = frontier_figure(table(*rows))
        line = next(trace for trace in figure.data if trace.mode == "lines")
        assert line.y == pytest.approx((80, 85, 90))  # the last is the undefended model

    def test_no_two_recipes_look_the_same(self):
        points = [
            (trace.marker.symbol, trace.marker.color)
            for trace in frontier_figure(table(*(cell(recipe=f"r{i}") for i in range(20)))).data
            if trace.hovertext
        ]
        assert len(set(points)) == len(points) == 21  # with the undefended model

    @given(points=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
    def test_unbeaten_by_its_definition(self, points):
        costs, gains = np.array(points, dtype=float).T
        kept = [points[place] for place in unbeaten(costs, gains)]
        beaten = {
            (c, g) for c, g in points for d, h in points if (d < c and h >= g) or (d <= c and h > g)
        }
        assert kept == sorted(set(points) - beaten)

    def test_without_a_shared_setting_it_says_so(self):
        figure = frontier_figure(table(cell(valid=False), failed(seed=1)))
        assert said(figure) == ["no cell in which all recipes are done and valid"]


class TestCriticalDifference:
    @pytest.mark.parametrize("n_recipes", [2, 3, 10])
    def test_names_all_recipes_with_their_ranks(self, n_recipes):
        cells = ranked(n_recipes, 6)
        figure = critical_difference_figure(cells)
        for recipe, rank in average_ranks(cells).items():
            assert f"{recipe} <b>{rank:.2f}</b>" in said(figure)
        width = statistics.critical_difference(n_recipes, 6)
        assert f"critical difference {width:.2f}" in said(figure)

    def test_title_states_settings_and_test(self):
        title = critical_difference_figure(ranked(3, 5, n_seeds=3)).layout.title.text
        p = statistics.friedman(scores(ranked(3, 5), "attack_success_excess"))
        assert title == f"Average ranks by excess over 5 settings, Friedman p {p:.3f}"

    def test_two_recipes_have_wilcoxons_test(self):
        rows = [
            cell(recipe=recipe, attack=f"{attack}", attack_success_excess=attack / 10 + excess)
            for recipe, excess in (("a", 0.1), ("b", 0.2))
            for attack in range(5)
        ]
        title = critical_difference_figure(table(*rows)).layout.title.text
        # 2 of the 32 ways to flip 5 signs are as far from 0
        assert title == "Average ranks by excess over 5 settings, Wilcoxon p 0.062"

    def test_more_seeds_do_not_make_recipes_clearer(self):
        one, many = (critical_difference_figure(ranked(3, 5, n_seeds)) for n_seeds in (1, 4))
        assert said(one) == said(many) and one.layout.title == many.layout.title

    def test_bars_join_what_is_alike(self):
        ranks = np.array([1.0, 1.5, 2.2, 3.9, 4.0])
        assert alike(ranks, 1.0) == [(1.0, 1.5), (1.5, 2.2), (3.9, 4.0)]
        assert alike(ranks, 9.0) == [(1.0, 4.0)]
        assert alike(ranks, 0.05) == []
        assert alike(np.array([2.0, 2.0]), 0.5) == [(2.0, 2.0)]

    @pytest.mark.parametrize(
        ("cells", "found"),
        [
            (ranked(1, 5), "1 recipe in 5 common settings"),
            (ranked(3, 1), "3 recipes in 1 common setting"),
            (table(failed()), "0 recipes in 0 common settings"),
        ],
    )
    def test_too_little_is_said_in_words(self, cells, found):
        assert said(critical_difference_figure(cells)) == [f"{found}: ranks take two of each"]


def drawn(cells: pd.DataFrame) -> list[Figure]:
    board = leaderboard(cells)
    return [before_after_figure(board), frontier_figure(cells), critical_difference_figure(cells)]


def test_names_are_escaped(grid):
    hostile = "<img src=x onerror=alert(1)>%{x}"
    cells = grid.assign(**{n: grid[n] + hostile for n in ("dataset", "attack", "recipe")})
    for figure in drawn(cells):
        texts = [*said(figure), *(trace.name or "" for trace in figure.data)]
        for trace in figure.data:
            texts += trace.hovertext or ()
            assert trace.hovertemplate is None
        assert any("&lt;img" in text for text in texts)
        assert not any("<img" in text for text in texts)


def test_figures_survive_json(grid):
    for figure in drawn(grid):
        again = plotly.io.from_json(figure.to_json())
        assert again.layout.title.text and again.layout.height == figure.layout.height
        assert "http" not in figure.to_json()
