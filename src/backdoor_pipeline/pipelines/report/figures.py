"""The figures of the report, as plotly figures: the same in kedro-viz, MLflow and the page.

Colours are those of Okabe and Ito (distinct for the colour-blind). Every figure holds a few
thousand points at most. Text from the data is escaped, because plotly reads it as HTML.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from backdoor_pipeline.pipelines.report.formatting import is_missing, number, percent, token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plotly.graph_objects import Figure

    from backdoor_pipeline.modelling.training import History

COLOURS = {"reference": "#7a7a7a", "victim": "#d55e00", "purified": "#0072b2"}
FLAGGED, PLAIN = "#d55e00", "#8fa3b0"
ROUNDS = {
    "drift_a": ("A: embedding block", "#0072b2", "circle"),
    "drift_b": ("B: without the tokens of A", "#009e73", "diamond"),
    "drift_c": ("C: whole encoder", "#cc79a7", "square"),
}
TOKENS_DRAWN = 1000
TOKENS_NAMED = 12
BINS = 400
HEIGHT = 420  # pixels
LOG = {"type": "log", "tickvals": [n * 10**power for power in range(8) for n in (1, 3)]}


def before_after_figure(metrics: Mapping[str, Any]) -> Figure:
    """Clean accuracy and attack success of the three models, with 95 % intervals and the floor."""
    from plotly.subplots import make_subplots

    rates = {"Clean accuracy": "clean_accuracy", "Attack success": "attack_success_rate"}
    figure = make_subplots(cols=2, shared_yaxes=True, subplot_titles=list(rates))
    for column, name in enumerate(rates.values(), start=1):
        for model, colour in COLOURS.items():
            values = metrics.get(model) or {}
            value, low, high = (values.get(f"{name}{end}") for end in ("", "_low", "_high"))
            if is_missing(value):
                continue
            low, high = (value if is_missing(bound) else bound for bound in (low, high))
            figure.add_bar(
                x=[model],
                y=[100 * value],
                error_y={
                    "array": [100 * (high - value)],
                    "arrayminus": [100 * (value - low)],
                    "color": "#222",
                    "thickness": 1.5,
                },
                marker_color=colour,
                width=0.6,
                hovertemplate=f"{model}: {percent(value)}"
                f" [{100 * low:.1f}, {100 * high:.1f}]<extra></extra>",
                row=1,
                col=column,
            )
            figure.add_annotation(
                x=model,
                y=100 * high,
                text=f"{100 * value:.1f}",
                font_size=11,
                showarrow=False,
                yshift=10,
                row=1,
                col=column,
            )
    floor = (metrics.get("reference") or {}).get("attack_success_rate")
    if not is_missing(floor):
        _threshold(figure, "y", 100 * floor, None, row=1, col=2)
    figure.update_yaxes(range=[0, 112], tickvals=[0, 25, 50, 75, 100])
    figure.update_yaxes(title_text="share of test rows, %", row=1, col=1)
    figure = _styled(figure, "Before and after, dashed: floor")
    return figure.update_layout(showlegend=False, margin_b=48)


def drift_figure(suspects: pd.DataFrame) -> Figure:
    """How far each token moved in each exposure against the number of texts that hold it."""
    from plotly.graph_objects import Figure

    rounds = [name for name in ROUNDS if name in suspects]
    if not rounds or suspects.empty:
        return _empty("Token drift", "these suspects were not found by token drift")
    thresholds = drift_thresholds(suspects)
    largest = {name: suspects[name].max() or 1.0 for name in rounds}
    unit = pd.Series(thresholds or largest)
    drawn = _thinned(suspects)
    relative = drawn[rounds] / unit[rounds]
    figure = Figure()
    for name in rounds:
        label, colour, symbol = ROUNDS[name]
        figure.add_scatter(
            x=drawn["count"].tolist(),
            y=relative[name].round(4).tolist(),
            mode="markers",
            name=label,
            marker={
                "color": colour,
                "symbol": symbol,
                "size": np.where(drawn["flagged"], 9, 5).tolist(),
                "opacity": 0.65,
            },
            text=_hover(drawn),
            hovertemplate=f"%{{text}}<br>in %{{x}} texts, drift %{{y:.2f}}<extra>{label}</extra>",
        )
    _name_flagged(figure, drawn, drawn["count"], relative.max(axis=1))
    if thresholds:
        _threshold(figure, "y", 1.0, "threshold")
    what = "threshold of its round" if thresholds else "largest of its round"
    figure.update_xaxes(title_text="training texts that hold the token", **LOG)
    figure.update_yaxes(title_text=f"drift / {what}", rangemode="tozero")
    return _styled(figure, "Token drift under exposure")


def drift_thresholds(suspects: pd.DataFrame) -> dict[str, float]:
    """The drift from which each round flags a token; empty if the table does not tell.

    A drift detector's score is max_r drift_r / threshold_r. So each threshold is the largest ratio
    of drift to score (some token has its score from that round), and the scores that follow from
    the thresholds must be those of the table.
    """
    rounds = [name for name in ROUNDS if name in suspects]
    scored = suspects[suspects["score"] > 0]
    if not rounds or scored.empty:
        return {}
    thresholds = scored[rounds].div(scored["score"], axis=0).max()
    if not (thresholds > 0).all():
        return {}
    follows = np.allclose((scored[rounds] / thresholds).max(axis=1), scored["score"], rtol=1e-6)
    return {name: float(thresholds[name]) for name in rounds} if follows else {}


def association_figure(suspects: pd.DataFrame) -> Figure:
    """A token's residual association with a label against what else is known about it.

    Left: against its drift (or its count); right: against how typical the texts around it are.
    """
    from plotly.subplots import make_subplots

    if "residual_z" not in suspects or suspects["residual_z"].isna().all():
        return _empty(
            "Association with a label",
            "this recipe does not measure it; btu_calibrated and association do",
        )
    drawn = _thinned(suspects[suspects["residual_z"].notna()], by="residual_z")
    rounds = [name for name in ROUNDS if name in drawn]
    if rounds:
        unit = pd.Series(drift_thresholds(suspects) or suspects[rounds].max().replace(0, 1))
        across, title = (drawn[rounds] / unit).max(axis=1), "largest relative drift"
    else:
        across, title = drawn["count"], "training texts that hold the token"
    has_auc = "independence_auc" in drawn and bool(drawn["independence_auc"].notna().any())
    figure = make_subplots(cols=1 + has_auc, shared_yaxes=True, horizontal_spacing=0.06)
    _scatter(figure, drawn, across, title, 1)
    if not rounds:
        figure.update_xaxes(**LOG, row=1, col=1)
    if has_auc:
        known = drawn[drawn["independence_auc"].notna()]
        _scatter(figure, known, known["independence_auc"], "AUC of the text around it", 2)
        _threshold(figure, "x", 0.5, "chance", row=1, col=2)
    if "z_threshold" in suspects:
        _threshold(figure, "y", float(suspects["z_threshold"].max()), "threshold")
    figure.update_yaxes(title_text="association z (residual)", row=1, col=1)
    return _styled(figure, "Association with a label")


def training_figure(victim_history: History, reference_history: History) -> Figure:
    """Loss and dev accuracy over the steps of the optimiser, victim and reference."""
    from plotly.subplots import make_subplots

    figure = make_subplots(cols=2, horizontal_spacing=0.18)
    histories = {"victim": victim_history, "reference": reference_history}
    window = 1
    for model, history in histories.items():
        loss = history.get("loss") or {"step": [], "value": []}
        steps, values, width = binned(loss["step"], loss["value"])
        window = max(window, width)
        figure.add_scatter(
            x=steps, y=values, mode="lines", name=model, legendgroup=model,
            line={"color": COLOURS[model], "width": 2}, row=1, col=1,
        )  # fmt: skip
        accuracy = history.get("dev_accuracy") or {"step": [], "value": []}
        figure.add_scatter(
            x=accuracy["step"], y=[100 * value for value in accuracy["value"]],
            mode="lines+markers", name=model, legendgroup=model, showlegend=False,
            line={"color": COLOURS[model], "width": 2}, marker_size=9, row=1, col=2,
        )  # fmt: skip
    mean = f" (mean of {window} steps)" if window > 1 else ""
    figure.update_xaxes(title_text="optimiser step")
    figure.update_yaxes(title_text=f"loss{mean}", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="accuracy on clean dev rows, %", row=1, col=2)
    return _styled(figure, "Training")


def binned(steps: list[float], values: list[float]) -> tuple[list[float], list[float], int]:
    """The curve as means over equal runs of steps, at most ``BINS`` of them, and their length."""
    width = max(1, -(-len(values) // BINS))
    bins = np.arange(len(values)) // width
    means = pd.DataFrame({"step": steps, "value": values}, dtype="float64").groupby(bins).mean()
    return means["step"].round(1).tolist(), means["value"].round(5).tolist(), width


def _thinned(suspects: pd.DataFrame, by: str = "score") -> pd.DataFrame:
    """Half of the room for the highest, the rest spread evenly over all others."""
    ranked = suspects.sort_values(["flagged", by], ascending=False)
    if "count" not in ranked:
        ranked = ranked.assign(count=1)
    if len(ranked) <= TOKENS_DRAWN:
        return ranked
    top = TOKENS_DRAWN // 2
    others = np.linspace(top, len(ranked) - 1, TOKENS_DRAWN - top).round().astype(int)
    return ranked.iloc[[*range(top), *others]]


def _scatter(figure: Figure, rows: pd.DataFrame, across: pd.Series, title: str, col: int) -> None:
    for flagged, name in ((False, "not flagged"), (True, "flagged")):
        chosen = rows["flagged"] == flagged
        figure.add_scatter(
            x=across[chosen].astype("float64").round(4).tolist(),
            y=rows.loc[chosen, "residual_z"].astype("float64").round(3).tolist(),
            mode="markers",
            name=name,
            legendgroup=name,
            showlegend=col == 1 and bool(chosen.any()),
            marker={
                "color": FLAGGED if flagged else PLAIN,
                "symbol": "diamond" if flagged else "circle",
                "size": 9 if flagged else 5,
                "opacity": 0.75,
            },
            text=_hover(rows[chosen]),
            hovertemplate="%{text}<br>z = %{y:.1f}, " + title + " %{x:.3g}<extra></extra>",
            row=1,
            col=col,
        )
    figure.update_xaxes(title_text=title, row=1, col=col)
    _name_flagged(figure, rows, across, rows["residual_z"], row=1, col=col)


def _name_flagged(
    figure: Figure, rows: pd.DataFrame, x: pd.Series, y: pd.Series, **panel: int
) -> None:
    named = rows[rows["flagged"]].head(TOKENS_NAMED)
    figure.add_scatter(
        x=x[named.index].tolist(), y=y[named.index].tolist(), text=_names(named),
        mode="markers+text", marker={"size": 14, "opacity": 0}, textposition="top center", showlegend=False, hoverinfo="skip", cliponaxis=False, **panel,
    )  # fmt: skip


def _names(rows: pd.DataFrame) -> list[str]:
    return [html.escape(token(evidence)[:40], quote=False) for evidence in rows["evidence"]]


def _hover(rows: pd.DataFrame) -> list[str]:
    """The token, and on further lines what is known of it."""
    facts = [c for c in ("label", "purity", "independence_auc") if c in rows]
    return [
        "<br>".join([f"<b>{name}</b>", *(f"{c} {number(row[c])}" for c in facts)])
        for name, (_, row) in zip(_names(rows), rows[facts].iterrows(), strict=True)
    ]


def _threshold(figure: Figure, axis: str, at: float, text: str | None, **panel: int) -> None:
    line = {"dash": "dash", "color": "#222", "width": 1}
    add, position = {
        "y": (figure.add_hline, "top right"),
        "x": (figure.add_vline, "bottom right"),
    }[axis]
    label = {"annotation_text": text, "annotation_position": position} if text else {}
    add(**{axis: at}, line=line, **label, **panel)


def _empty(title: str, why: str) -> Figure:
    from plotly.graph_objects import Figure

    figure = Figure()
    figure.add_annotation(
        text=why, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper", font_size=15
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return _styled(figure, title).update_layout(height=160, margin_b=16)


def _styled(figure: Figure, title: str) -> Figure:
    axis = {
        "gridcolor": "#e6e6e6",
        "linecolor": "#444",
        "showline": True,
        "ticks": "outside",
        "tickcolor": "#444",
        "zeroline": False,
        "automargin": True,
        "title": {"font": {"size": 13}},
    }
    template = {
        "layout": {
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#222"},
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "hoverlabel": {"bgcolor": "white", "font": {"size": 13}},
            "xaxis": axis,
            "yaxis": axis,
        }
    }
    return figure.update_layout(
        template=template,
        title={"text": title, "x": 0, "xref": "paper", "font": {"size": 15}},
        height=HEIGHT,
        margin={"l": 60, "r": 16, "t": 64, "b": 88},
        legend={
            "orientation": "h",
            "itemsizing": "constant",
            "x": 0,
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
        },
    )
