"""The figures of the Fourier analysis and of the discovery curve, as plotly figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backdoor_pipeline.formatting import rate
from backdoor_pipeline.presentation import styled

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from plotly.graph_objects import Figure

PANELS = {
    ("triggered", "low"): "triggered rows, low",
    ("clean", "low"): "clean rows, low",
    ("triggered", "high"): "triggered rows, high",
    ("clean", "high"): "clean rows, high",
}
CONTROL = {("clean_target", "low"): "clean rows of the target label, low"}
COLOURS = {"triggered": "#d55e00", "clean": "#0072b2", "clean_target": "#009e73"}
SHOWN = (0.1, 1.0)  # of the deviations, as in the paper
MEASURES = {
    "healed": ("healed", "#009e73"),
    "attack_success_rate": ("attack success", "#d55e00"),
    "clean_accuracy_drop": ("clean accuracy drop", "#0072b2"),
}
SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # named at the axis
APART = 1.5  # times the first point's share, from where they do not run into its name


def frequency_map(frequencies: pd.DataFrame) -> Figure:
    """Deviation by step and filter width: a panel for each set and part; grey: not defined."""
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=2,
        cols=2,
        subplot_titles=list(PANELS.values()),
        shared_xaxes=True,
        shared_yaxes=True,
        vertical_spacing=0.14,
        horizontal_spacing=0.05,
    )
    for place, (test_set, part) in enumerate(PANELS):
        rows = frequencies[(frequencies["test_set"] == test_set) & (frequencies["part"] == part)]
        wide = rows.pivot(index="width", columns="step", values="deviation")
        x, y = wide.columns.tolist(), wide.index.tolist()
        panel = {"row": 1 + place // 2, "col": 1 + place % 2}
        if wide.isna().all(axis=None):  # plotly stumbles over a map without a number
            ends = {"x": x[:1] + x[-1:], "y": y[:1] + y[-1:]}
            figure.add_scatter(
                **ends, mode="lines", opacity=0, hoverinfo="skip", showlegend=False, **panel
            )
            continue
        figure.add_heatmap(
            x=x,
            y=y,
            z=wide.round(4).to_numpy(),
            coloraxis="coloraxis",
            hovertemplate="step %{x}, width %{y:.2f}: %{z:.3f}<extra></extra>",
            **panel,
        )
    figure = styled(figure, "What is learnt first: distance from the labels")
    figure.update_xaxes(title_text="optimiser step", row=2)
    figure.update_yaxes(title_text="filter width", col=1)
    low, high = SHOWN
    scale = {"colorscale": "Viridis", "cmin": low, "cmax": high}
    return figure.update_layout(
        coloraxis=scale | {"colorbar": {"title": "deviation"}},
        plot_bgcolor="#dddddd",
        height=560,
    )


def frequency_curves(frequencies: pd.DataFrame) -> Figure:
    """Deviation and ratio over the steps, means over the filter widths."""
    from plotly.subplots import make_subplots

    titles = {"deviation": "distance from the labels", "ratio": "share of the output"}
    figure = make_subplots(cols=2, subplot_titles=list(titles.values()), horizontal_spacing=0.1)
    means = frequencies.groupby(["test_set", "part", "step"])[list(titles)].mean()
    for column, value in enumerate(titles, start=1):
        for (test_set, part), name in (PANELS | CONTROL).items():
            if (test_set, part) not in means.index:
                continue
            curve = means.loc[(test_set, part), value]
            figure.add_scatter(
                x=curve.index.tolist(),
                y=curve.round(4).tolist(),
                mode="lines+markers",
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                line={
                    "color": COLOURS[test_set],
                    "width": 2,
                    "dash": "solid" if part == "low" else "dot",
                },
                row=1,
                col=column,
            )
    figure.update_xaxes(title_text="optimiser step")
    figure.update_yaxes(rangemode="tozero")
    return styled(figure, "Low and high frequencies over the training, means over filter widths")


def discovery_curve(curve: pd.DataFrame, summary: Mapping[str, Any]) -> Figure:
    """What heals and what it costs over the share of the poison that is known, with intervals.

    The first point, one row, is open; the areas in the legend are those over the share itself, not
    over its logarithm. What is not known is not drawn.

    Args:
        curve: As in ``schemas.DISCOVERY_CURVE``.
        summary: Its areas.
    """
    from plotly.graph_objects import Figure

    figure = Figure()
    shares, rows = curve["told_share"].tolist(), curve["told_rows"].tolist()
    for name, (label, colour) in MEASURES.items():
        if curve[name].isna().any():
            continue
        value, low, high = (100 * curve[f"{name}{end}"] for end in ("", "_low", "_high"))
        figure.add_scatter(
            x=shares + shares[::-1],
            y=high.round(3).tolist() + low.round(3).tolist()[::-1],
            fill="toself",
            fillcolor=colour,
            line_width=0,
            mode="lines",
            opacity=0.15,
            hoverinfo="skip",
            showlegend=False,
            legendgroup=name,
        )
        figure.add_scatter(
            x=shares,
            y=value.round(3).tolist(),
            mode="lines+markers",
            name=f"{label}, area {rate(summary['area'], name)}",
            legendgroup=name,
            line={"color": colour, "width": 2},
            marker={"size": 8, "symbol": ["circle-open"] + ["circle"] * (len(shares) - 1)},
            customdata=list(zip(rows, low.round(1), high.round(1), strict=True)),
            hovertemplate="%{customdata[0]} rows: %{y:.1f} % "
            f"[%{{customdata[1]}}, %{{customdata[2]}}]<extra>{label}</extra>",
        )
    ticks = {shares[0]: "1 row"} | {s: f"{100 * s:g} %" for s in SHARES if s > APART * shares[0]}
    figure.update_xaxes(
        type="log",
        title_text="share of the poisoned rows that the defender knows",
        tickvals=list(ticks),
        ticktext=list(ticks.values()),
    )
    figure.update_yaxes(title_text="%")
    return styled(
        figure, "What heals by the share of the poison that is known, with 95 % intervals"
    )
