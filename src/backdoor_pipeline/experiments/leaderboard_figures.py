"""The figures of a leaderboard, as plotly figures: what each recipe costs, and who ranks where.

Colours are those of Okabe and Ito (distinct for the colour-blind); the victim is grey. Names from
the data are escaped, because plotly reads them as HTML.
"""

from __future__ import annotations

import html
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from backdoor_pipeline.experiments import statistics
from backdoor_pipeline.experiments.leaderboard import (
    CELL,
    RANKED_BY,
    average_ranks,
    common,
    scores,
    settings,
    varying,
)
from backdoor_pipeline.formatting import counted, p_value, percent, rate
from backdoor_pipeline.presentation import nothing_to_draw, styled

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from plotly.graph_objects import Figure

COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#d55e00", "#56b4e9", "#222222", "#b8a700")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "pentagon", "star", "cross")
"""One fewer than colours, so that only after 56 recipes one looks like another."""
VICTIM = "#9a9a9a"
NO_DEFENCE = "undefended"
BEFORE = ["victim_attack_success_rate", "victim_clean_accuracy"]
AFTER = ["attack_success_rate", "clean_accuracy"]
LEAST_RANGE = 10  # points of clean accuracy, so that noise does not look like a difference
PANELS = 2  # side by side
PANEL = 300  # pixels high
LINE = 26  # pixels high
WIDTH = 1000  # pixels of a figure on a wide screen
LETTER = 7.5  # pixels wide
NAME = 40  # letters of a recipe's name that fit beside the ranks
BAR = 0.45  # lines from one bar to the next


def before_after_figure(leaderboard: pd.DataFrame) -> Figure:
    """Clean accuracy against attack success, with an arrow from victim to purified for each row.

    One panel a data set, one colour a recipe, one symbol an attack; dotted lines are floors.

    Args:
        leaderboard: From the function of that name; rows without a valid seed are left out.
    """
    title = "From victim to purified model, dotted: floors"
    rows = leaderboard[leaderboard["seeds"] > 0]
    if rows.empty:
        return nothing_to_draw(title, "no cell in which an attack was implanted")
    attacks = settings(rows)[varying(rows)[1:]].agg(", ".join, axis=1)
    rows = rows.assign(attack=attacks)
    names = ["dataset", "attack", "recipe"]
    rows[names] = rows[names].map(_escaped)
    colours = dict(zip(rows["recipe"].unique(), cycle(COLOURS), strict=False))
    symbols = dict(zip(rows["attack"].unique(), cycle(SYMBOLS), strict=False))
    panels = dict(list(rows.groupby("dataset", sort=False)))
    figure, places = _panels(panels)
    for own, panel in zip(panels.values(), places, strict=True):
        _draw_panel(figure, own, colours, symbols, **panel)
    for recipe, colour in colours.items():
        _name_in(figure, "legend", recipe, {"symbol": "arrow-right", "color": colour})
    for attack, symbol in symbols.items():
        _name_in(figure, "legend2", attack, {"symbol": symbol, "color": VICTIM})
    figure.update_xaxes(title_text="attack success, %", range=[-4, 104], dtick=25)
    figure.update_yaxes(title_text="clean accuracy, %", col=1)
    figure = styled(figure, title)
    second = figure.layout.legend.to_plotly_json()
    low = LINE * _lines(symbols)
    below = low + LINE * _lines(colours) + 56
    height = _height(panels, below)
    return figure.update_layout(
        height=height, margin_b=below, legend2=second, legend_y=low / height
    )


def frontier_figure(cells: pd.DataFrame) -> Figure:
    """Clean accuracy against excess attack success, means over settings, a point for each recipe.

    One panel a data set; a line joins the recipes, or the undefended model, that no other one beats
    on both. Means are those of ``scores``, over the cells that all recipes have.

    Args:
        cells: A ``CELLS`` table.
    """
    title = "Clean accuracy against excess attack success, means over attacks"
    cells = cells.assign(**{name: cells[name].map(_escaped) for name in ("dataset", "recipe")})
    panels = {
        f"{dataset}, {counted(len(shared), 'cell')} that all recipes have": _means(own)
        for dataset, own in cells.groupby("dataset", sort=False)
        if len(shared := common(own)[CELL].drop_duplicates())
    }
    if not panels:
        return nothing_to_draw(title, "no cell in which all recipes are done and valid")
    figure, places = _panels(panels)
    names = list(dict.fromkeys(name for means in panels.values() for name in means.index))
    colours = dict(zip(names, cycle(COLOURS), strict=False)) | {NO_DEFENCE: VICTIM}
    symbols = dict(zip(names, cycle(SYMBOLS), strict=False))
    for name in names:
        _name_in(figure, "legend", name, {"symbol": symbols[name], "color": colours[name]})
    for means, panel in zip(panels.values(), places, strict=True):
        best = means.iloc[unbeaten(means["excess"].to_numpy(), means["accuracy"].to_numpy())]
        line = {"color": "#777", "width": 1, "dash": "dot"}
        x, y = best["excess"].tolist(), best["accuracy"].tolist()
        figure.add_scatter(
            x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False, **panel
        )
        for name, point in means.iterrows():
            figure.add_scatter(
                x=[point["excess"]],
                y=[point["accuracy"]],
                mode="markers",
                marker={"symbol": symbols[name], "color": colours[name], "size": 11},
                legendgroup=name,
                showlegend=False,
                hovertext=f"<b>{name}</b><br>excess {point['excess']:.1f} %"
                f"<br>clean accuracy {point['accuracy']:.1f} %",
                hoverinfo="text",
                **panel,
            )
    figure.update_xaxes(title_text="excess attack success, %")
    figure.update_yaxes(title_text="clean accuracy, %", col=1)
    below = LINE * _lines(names) + 56
    return styled(figure, title).update_layout(height=_height(panels, below), margin_b=below)


def unbeaten(costs: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Places, by rising cost, of those with no other of less cost and as much gain, or of as little
    cost and more gain."""
    order = np.lexsort((-gains, costs))
    before = np.maximum.accumulate(np.concatenate([[-np.inf], gains[order][:-1]]))
    return order[gains[order] > before]


def critical_difference_figure(cells: pd.DataFrame) -> Figure:
    """Average ranks by excess; bars join recipes that are not significantly apart.

    After Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets" (JMLR 7, 2006,
    section 3.2.2): Friedman's test of all recipes, or Wilcoxon's of two, and the critical
    difference of Nemenyi's. Ranks are over settings, of means over the seeds that all have there.

    Args:
        cells: A ``CELLS`` table.
    """
    from plotly.graph_objects import Figure

    title = "Average ranks by excess"
    excess = scores(cells, RANKED_BY)
    n_settings, n_recipes = excess.shape
    if n_recipes < 2 or n_settings < 2:  # noqa: PLR2004  # nothing to rank
        found = f"{counted(n_recipes, 'recipe')} in {counted(n_settings, 'common setting')}"
        return nothing_to_draw(title, f"{found}: ranks take two of each")
    ranks = average_ranks(cells).sort_values(kind="stable")
    width = statistics.critical_difference(n_recipes, n_settings)
    bars = alike(ranks.to_numpy(), width)
    figure = Figure()
    _draw_ruler(figure, list(range(1, n_recipes + 1)), height=0)
    _draw_ruler(figure, [1, 1 + width], height=1.6)
    _write(figure, 1, 1.6, f"critical difference {width:.2f}", xanchor="left", yshift=14)
    for rank in range(1, n_recipes + 1):
        _write(figure, rank, 0, str(rank), yshift=14)
    for place, (best, worst) in enumerate(bars, start=1):
        _draw_line(figure, [best - 0.02, worst + 0.02], [-BAR * place] * 2, COLOURS[0], 6)
    top, half = BAR * len(bars) + 1, -(-n_recipes // 2)
    for place, (recipe, rank) in enumerate(ranks.items()):
        side, end, depth = "right", 1, top + place
        if place >= half:
            side, end, depth = "left", n_recipes, top + n_recipes - 1 - place
        _draw_line(figure, [rank, rank, end], [0, -depth, -depth], "#444", 1)
        name = f"{_escaped(str(recipe)[:NAME])} <b>{rank:.2f}</b>"
        _write(figure, end, -depth, name, xanchor=side, xshift=6 if side == "left" else -6)
    p = _escaped(p_value(statistics.friedman(excess)))
    test = "Wilcoxon" if n_recipes == 2 else "Friedman"  # noqa: PLR2004  # as ``friedman`` does
    figure = styled(figure, f"{title} over {n_settings} settings, {test} p {p}")
    figure.update_xaxes(visible=False, range=[0.97, max(n_recipes, 1 + width) + 0.03])
    figure.update_yaxes(visible=False, range=[-(top + half - 0.5), 2.5])
    margin = 50 + LETTER * min(NAME, max(len(str(recipe)) for recipe in ranks.index))
    height = 60 + LINE * (top + half + 2)
    sides = {"l": margin, "r": margin, "t": 56, "b": 4}
    return figure.update_layout(
        showlegend=False, height=height, margin=sides, title={"xref": "container", "x": 0.01}
    )


def alike(ranks: np.ndarray, width: float) -> list[tuple[float, float]]:
    """First and last of each largest run of sorted ``ranks`` that spans less than ``width``."""
    ends = np.searchsorted(ranks, ranks + width) - 1
    return [
        (float(ranks[start]), float(ranks[end]))
        for start, end in enumerate(ends)
        if end > start and (start == 0 or end > ends[start - 1])
    ]


def _means(cells: pd.DataFrame) -> pd.DataFrame:
    """Per cent, by recipe and for the undefended model: the mean ``excess`` and ``accuracy``."""
    shared = common(cells)
    victims = shared.drop_duplicates(CELL).assign(recipe=NO_DEFENCE)
    victims[AFTER] = victims[BEFORE]
    both = pd.concat([shared, victims])
    columns = {"excess": RANKED_BY, "accuracy": "clean_accuracy"}
    return 100 * pd.DataFrame({name: scores(both, of).mean() for name, of in columns.items()})


def _panels(names: Collection[str]) -> tuple[Figure, list[dict[str, int]]]:
    """A figure with a panel for each name, and where each of them is."""
    from plotly.subplots import make_subplots

    lines = -(-len(names) // PANELS)
    figure = make_subplots(
        rows=lines,
        cols=min(len(names), PANELS),
        subplot_titles=list(names),
        horizontal_spacing=0.1,
        vertical_spacing=100 / (lines * PANEL),
    )
    figure.update_annotations(font_size=13)  # the names of the panels
    places = range(len(names))
    return figure, [{"row": n // PANELS + 1, "col": n % PANELS + 1} for n in places]


def _height(panels: Collection[str], below: int) -> int:
    """Pixels of a figure of these panels, with so many for its legends."""
    return -(-len(panels) // PANELS) * PANEL + below + 32


def _draw_panel(
    figure: Figure,
    rows: pd.DataFrame,
    colours: Mapping[str, str],
    symbols: Mapping[str, str],
    **panel: int,
) -> None:
    """The arrows of one data set, a point at each end, and the floors."""
    for recipe, own in rows.groupby("recipe", sort=False):
        gap = np.full((len(own), 2), np.nan)  # between one arrow and the next
        corners = np.stack([100 * own[BEFORE], 100 * own[AFTER], gap], axis=1).reshape(-1, 2)
        figure.add_scatter(
            x=corners[:, 0].round(3).tolist(),
            y=corners[:, 1].round(3).tolist(),
            mode="lines+markers",
            line={"color": colours[recipe], "width": 1.5},
            marker={
                "symbol": "arrow",
                "angleref": "previous",
                "standoff": 5,
                "size": [0, 12, 0] * len(own),
            },
            opacity=0.7,
            hoverinfo="skip",
            legendgroup=recipe,
            showlegend=False,
            **panel,
        )
        _draw_points(figure, own, AFTER, colours[recipe], symbols, legendgroup=recipe, **panel)
    _draw_points(figure, rows, BEFORE, VICTIM, symbols, **panel)
    for floor in rows.groupby("attack", sort=False)["attack_success_floor"].mean():
        figure.add_vline(100 * floor, line={"dash": "dot", "color": "#777", "width": 1}, **panel)
    accuracies = 100 * rows[[BEFORE[1], AFTER[1]]].to_numpy()
    low, high = accuracies.min(), accuracies.max()
    room = max(0.08 * (high - low), (LEAST_RANGE - (high - low)) / 2)
    figure.update_yaxes(range=[round(low - room, 2), round(high + room, 2)], **panel)


def _draw_points(
    figure: Figure,
    rows: pd.DataFrame,
    ends: list[str],
    colour: str,
    symbols: Mapping[str, str],
    **place: str | int,
) -> None:
    figure.add_scatter(
        x=(100 * rows[ends[0]]).round(3).tolist(),
        y=(100 * rows[ends[1]]).round(3).tolist(),
        mode="markers",
        marker={
            "symbol": rows["attack"].map(symbols).tolist(),
            "color": colour,
            "size": 9,
            "line": {"color": "white", "width": 1},
        },
        hovertext=[_told(row) for row in rows.to_dict("records")],
        hoverinfo="text",
        showlegend=False,
        **place,
    )


def _told(row: Mapping[Any, Any]) -> str:
    """What a point says when the pointer is over it."""
    accuracy, success = (
        f"{percent(row[f'victim_{name}'])} → {rate(row, name)}"
        for name in ("clean_accuracy", "attack_success_rate")
    )
    return (
        f"<b>{row['recipe']}</b>, {row['attack']}, {counted(row['seeds'], 'seed')}"
        f"<br>clean accuracy {accuracy}<br>attack success {success}"
        f"<br>floor {percent(row['attack_success_floor'])}"
        f"<br>excess {rate(row, 'attack_success_excess')}"
    )


def _name_in(figure: Figure, legend: str, name: str, marker: Mapping[str, str]) -> None:
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker={**marker, "size": 11},
        name=name,
        legend=legend,
        legendgroup=name,
        hoverinfo="skip",
        row=1,
        col=1,
    )


def _lines(names: Iterable[str]) -> int:
    """How many lines a legend of these takes on a wide screen."""
    return -(-sum(55 + round(LETTER * len(name)) for name in names) // WIDTH)


def _draw_ruler(figure: Figure, ticks: list[float], height: float) -> None:
    """A line with short strokes across it."""
    _draw_line(figure, ticks, [height] * len(ticks), "#222", 1.5)
    stroke = {"symbol": "line-ns-open", "size": 9, "color": "#222"}
    figure.data[-1].update(mode="lines+markers", marker=stroke)


def _draw_line(figure: Figure, x: list[float], y: list[float], colour: str, width: float) -> None:
    line = {"color": colour, "width": width}
    figure.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip")


def _write(figure: Figure, x: float, y: float, text: str, **place: str | int) -> None:
    figure.add_annotation(x=x, y=y, text=text, showarrow=False, **place)


def _escaped(name: str) -> str:
    return html.escape(name, quote=False)
