"""The figures of the report, as plotly figures: the same in kedro-viz, MLflow and the page.

Colours are those of Okabe and Ito (distinct for the colour-blind). Every figure holds a few
thousand points at most. Text from the data is escaped, because plotly reads it as HTML.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from backdoor_pipeline.formatting import is_known, number, percent, token
from backdoor_pipeline.presentation import nothing_to_draw, styled

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
PAIRS_DRAWN = 800  # of a kind
BINS = 400
SMALLEST_P = 1e-300  # that the scale shows
LOG = {"type": "log", "tickvals": [n * 10**power for power in range(8) for n in (1, 3)]}


def before_after_figure(metrics: Mapping[str, Any]) -> Figure:
    """Clean accuracy and attack success of the three models, with 95 % intervals and the floor."""
    from plotly.subplots import make_subplots

    rates = {"Clean accuracy": "clean_accuracy", "Attack success": "attack_success_rate"}
    figure = make_subplots(cols=2, shared_yaxes=True, subplot_titles=list(rates))
    for column, name in enumerate(rates.values(), start=1):
        for model, colour in COLOURS.items():
            values = metrics.get(model) or {}
            value = values.get(name)
            if not is_known(value):
                continue
            low, high = values.get(f"{name}_low", value), values.get(f"{name}_high", value)
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
    if is_known(floor):
        _threshold(figure, "y", 100 * floor, None, row=1, col=2)
    figure.update_yaxes(range=[0, 112], tickvals=[0, 25, 50, 75, 100])
    figure.update_yaxes(title_text="share of test rows, %", row=1, col=1)
    figure = styled(figure, "Before and after, dashed: floor")
    return figure.update_layout(showlegend=False, margin_b=48)


def drift_figure(suspects: pd.DataFrame) -> Figure:
    """How far each token moved in each exposure against the number of texts that hold it."""
    from plotly.graph_objects import Figure

    if suspects.empty or not _rounds(suspects):
        return nothing_to_draw("Token drift", "these suspects were not found by token drift")
    thresholds = drift_thresholds(suspects)
    drawn = _thinned(suspects)
    relative = _relative_drift(drawn, thresholds)
    figure = Figure()
    for name, drift in relative.items():
        label, colour, symbol = ROUNDS[str(name)]
        figure.add_scatter(
            x=drawn["count"].tolist(),
            y=drift.round(4).tolist(),
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
    _threshold(figure, "y", 1.0, "threshold")
    figure.update_xaxes(title_text="training texts that hold the token", **LOG)
    figure.update_yaxes(title_text="drift / threshold of its round", rangemode="tozero")
    return styled(figure, "Token drift under exposure")


def drift_thresholds(suspects: pd.DataFrame) -> pd.Series:
    """Per round, the largest drift of a token that no round raised: whatever moved further, was.

    A table of one detector alone has no column ``raised``: there, what was raised is flagged.
    """
    raised = suspects["raised" if "raised" in suspects else "flagged"]
    drifts = suspects[_rounds(suspects)]
    thresholds = drifts[~raised].max()
    return thresholds.where(thresholds > 0, drifts.max()).replace(0, 1).fillna(1)


def association_figure(suspects: pd.DataFrame, margin: float | None = None) -> Figure:
    """How firmly each token goes with a label, against its drift and the signs of insertion.

    Left: against the drift (or, without one, the count). Right, for tokens that the detector
    judged: against the larger upper bound of their two effects, small for what was inserted.

    Args:
        suspects: ``p_value`` is that of the association.
        margin: Up to which an effect counts as small.
    """
    from plotly.subplots import make_subplots

    title = "Association with a label"
    if suspects["p_value"].isna().all():
        return nothing_to_draw(
            title, "this recipe does not measure it; btu_calibrated and association do"
        )
    tested = suspects[suspects["p_value"].notna()]
    strength = -np.log10(tested["p_value"].clip(lower=SMALLEST_P))
    bounds = insertion_bound(tested)
    drawn, judged = _thinned(tested), _thinned(tested[bounds.notna()])
    figure = make_subplots(cols=2 if len(judged) else 1, shared_yaxes=True, horizontal_spacing=0.06)
    if _rounds(drawn):
        drift = _relative_drift(drawn, drift_thresholds(suspects)).max(axis=1)
        _scatter(figure, drawn, drift, strength, "drift / threshold", 1)
        _threshold(figure, "x", 1.0, "threshold", row=1, col=1)
    else:
        _scatter(figure, drawn, drawn["count"], strength, "training texts that hold it", 1)
        figure.update_xaxes(**LOG, row=1, col=1)
    if len(judged):
        _scatter(figure, judged, bounds, strength, "misfit to the text, upper bound", 2)
        if margin is not None:
            _threshold(figure, "x", margin, "margin", row=1, col=2)
    figure.update_yaxes(title_text="association, \u2212log10 p", row=1, col=1)
    return styled(figure, title)


def insertion_bound(suspects: pd.DataFrame) -> pd.Series:
    """The larger bound of a token's effects on neighbours and context; NaN: not judged."""
    columns = [name for name in ("neighbour_bound", "context_bound") if name in suspects]
    return suspects[columns].max(axis=1) if columns else pd.Series(np.nan, index=suspects.index)


def training_figure(histories: Mapping[str, History]) -> Figure:
    """Loss and dev accuracy over the steps of the optimiser, of each model."""
    from plotly.subplots import make_subplots

    figure = make_subplots(cols=2, horizontal_spacing=0.18)
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
    return styled(figure, "Training")


def similarity_figure(suspects: pd.DataFrame) -> Figure:
    """Pairs by how similar image and caption are to the trusted encoder, and by their score.

    Args:
        suspects: Of ``overfit_similarity``: all pairs, of which some hundred of the others are
            drawn.
    """
    from plotly.graph_objects import Figure

    figure = Figure()
    exposed, flagged = suspects["exposed"], suspects["flagged"]
    others = suspects[~exposed]
    if len(others) > PAIRS_DRAWN:
        others = others.sample(PAIRS_DRAWN, random_state=0)
    for rows, name, colour, size in (
        (others, "other pairs", PLAIN, 4),
        (suspects[exposed & ~flagged].head(PAIRS_DRAWN), "among the first", "#222222", 5),
        (suspects[flagged].head(PAIRS_DRAWN), "flagged", FLAGGED, 8),
    ):
        figure.add_scatter(
            x=rows["trusted_similarity"],
            y=rows["score"],
            mode="markers",
            name=name,
            marker={"color": colour, "size": size},
            text=[html.escape(caption) for caption in rows["evidence"]],
            hovertemplate="%{text}<br>%{x:.2f}, %{y:.2f}<extra></extra>",
        )
    figure.update_xaxes(title_text="similarity of image and caption to the trusted encoder")
    figure.update_yaxes(title_text="score: how suspicious")
    return styled(figure, "Pairs that are similar for another reason")


def forgetting_figure(record: Mapping[str, Any]) -> Figure:
    """How similar the suspects are to the blamed words, and how far pairs to keep have moved.

    Args:
        record: Of the unlearning; its ``forgetting`` has the curves.
    """
    from plotly.subplots import make_subplots

    title = "Forgetting, step by step"
    curves = record.get("forgetting")
    if not curves or not curves["similarity"]["step"]:
        return nothing_to_draw(title, "there was nothing to forget")
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    for name, label, colour, second in (
        ("drift", "how far pairs to keep have moved (right)", PLAIN, True),
        ("similarity", "suspects and blamed words (left)", COLOURS["purified"], False),
    ):
        figure.add_scatter(
            x=curves[name]["step"],
            y=curves[name]["value"],
            mode="lines",
            name=label,
            line={"color": colour, "width": 2},
            hovertemplate="step %{x}: %{y:.3g}<extra></extra>",
            secondary_y=second,
        )
    _threshold(figure, "y", record["unrelated"], "unrelated", "top right")
    figure.update_xaxes(title_text="step", rangemode="tozero")
    figure.update_yaxes(title_text="similarity")
    figure.update_yaxes(
        title_text="squared distance", rangemode="tozero", showgrid=False, secondary_y=True
    )
    return styled(figure, title)


def search_figure(record: Mapping[str, Any], rho: float | None = None) -> Figure:
    """What is left of the labels to forget, and dampened parameters, over the search's steps.

    The step whose model was taken is marked.

    Args:
        record: Of the search; its ``search`` has the curves, its ``share`` is of the step taken.
        rho: Share of the victim's at which the search ends, if that is to be drawn.
    """
    from plotly.subplots import make_subplots

    title = "The search for how much to dampen"
    curves = record.get("search")
    if not curves:
        given_others = "the victim gives none of the rows to forget the label that they have"
        why = given_others if record.get("unassigned_rows") else "there were no rows to forget"
        return nothing_to_draw(title, why)
    if not record["converged"]:
        title += ": it did not get there"
    share = curves["dampened_share"]
    criterion, left = next((k, v) for k, v in curves.items() if k.startswith("forget_"))
    criterion = criterion.removeprefix("forget_")
    taken = share["value"].index(record["share"])  # steps that dampen no more are the same model
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    for curve, name, colour, second in (
        (share, "dampened parameters (right)", PLAIN, True),
        (left, f"{criterion} of the labels to forget (left)", COLOURS["purified"], False),
    ):
        values = [100 * value if value or not second else None for value in curve["value"]]
        figure.add_scatter(
            x=curve["step"],
            y=values,
            mode="lines+markers",
            name=name,
            line={"color": colour, "width": 2},
            marker={"size": [14 if place == taken else 4 for place in range(len(values))]},
            hovertemplate="step %{x}: %{y:.3g} %<extra></extra>",
            secondary_y=second,
        )
    step = left["step"][taken]
    _threshold(figure, "x", step, f"step {step} was taken", "top")
    if rho is not None:
        _threshold(figure, "y", 100 * rho * left["value"][0], "enough", "top left")
    figure.update_xaxes(title_text="step of the search, 0: the victim", rangemode="tozero")
    figure.update_yaxes(title_text=f"{criterion} of the poisoned labels, %", range=[-3, 103])
    figure.update_yaxes(
        title_text="dampened parameters, %", type="log", range=None, showgrid=False,
        tickformat="~g", secondary_y=True,
    )  # fmt: skip
    return styled(figure, title)


def binned(steps: list[float], values: list[float]) -> tuple[list[float], list[float], int]:
    """The curve as means over equal runs of steps, at most ``BINS`` of them, and their length."""
    width = max(1, -(-len(values) // BINS))
    bins = np.arange(len(values)) // width
    means = pd.DataFrame({"step": steps, "value": values}, dtype="float64").groupby(bins).mean()
    return means["step"].round(1).tolist(), means["value"].round(5).tolist(), width


def _rounds(suspects: pd.DataFrame) -> list[str]:
    return [name for name in ROUNDS if name in suspects]


def _relative_drift(suspects: pd.DataFrame, thresholds: pd.Series) -> pd.DataFrame:
    """Drift over threshold in each round, as ordinary numbers."""
    return suspects[list(thresholds.index)] / thresholds


def _thinned(suspects: pd.DataFrame) -> pd.DataFrame:
    """Half of the room for the most suspicious, the rest spread evenly over all others."""
    ranked = suspects.sort_values(["flagged", "score"], ascending=False)
    if "count" not in ranked:
        ranked = ranked.assign(count=1)
    if len(ranked) <= TOKENS_DRAWN:
        return ranked
    top = TOKENS_DRAWN // 2
    others = np.linspace(top, len(ranked) - 1, TOKENS_DRAWN - top).round().astype(int)
    return ranked.iloc[[*range(top), *others]]


def _scatter(
    figure: Figure, rows: pd.DataFrame, x: pd.Series, y: pd.Series, title: str, col: int
) -> None:
    for flagged, name in ((False, "not flagged"), (True, "flagged")):
        chosen = rows[rows["flagged"] == flagged]
        figure.add_scatter(
            x=x[chosen.index].astype("float64").round(4).tolist(),
            y=y[chosen.index].astype("float64").round(3).tolist(),
            mode="markers",
            name=name,
            legendgroup=name,
            showlegend=col == 1 and len(chosen) > 0,
            marker={
                "color": FLAGGED if flagged else PLAIN,
                "symbol": "diamond" if flagged else "circle",
                "size": 9 if flagged else 5,
                "opacity": 0.75,
            },
            text=_hover(chosen),
            hovertemplate="%{text}<br>" + title + " %{x:.3g}<extra></extra>",
            row=1,
            col=col,
        )
    figure.update_xaxes(title_text=title, row=1, col=col)
    _name_flagged(figure, rows, x, y, row=1, col=col)


def _name_flagged(
    figure: Figure, rows: pd.DataFrame, x: pd.Series, y: pd.Series, **panel: int
) -> None:
    named = rows[rows["flagged"]].head(TOKENS_NAMED)
    figure.add_scatter(
        x=x[named.index].tolist(),
        y=y[named.index].tolist(),
        text=_names(named),
        mode="markers+text",
        marker={"size": 14, "opacity": 0},  # keeps the name off the point it belongs to
        textposition="top center",
        showlegend=False,
        hoverinfo="skip",
        cliponaxis=False,
        **panel,
    )


def _names(rows: pd.DataFrame) -> list[str]:
    return [html.escape(token(evidence)[:40], quote=False) for evidence in rows["evidence"]]


def _hover(rows: pd.DataFrame) -> list[str]:
    """The token, and on further lines what else is known of it."""
    facts = [name for name in ("label", "purity", "p_value", "residual_z") if name in rows]
    lines = [[f"<b>{name}</b>"] for name in _names(rows)]
    for fact in facts:
        for line, value in zip(lines, rows[fact].tolist(), strict=True):
            if is_known(value):
                line.append(f"{fact} {number(value)}")
    return ["<br>".join(line) for line in lines]


def _threshold(
    figure: Figure,
    axis: str,
    at: float,
    text: str | None,
    position: str | None = None,
    **panel: int,
) -> None:
    line = {"dash": "dash", "color": "#222", "width": 1}
    add, usual = {
        "y": (figure.add_hline, "top right"),
        "x": (figure.add_vline, "bottom right"),
    }[axis]
    label = {"annotation_text": text, "annotation_position": position or usual} if text else {}
    add(**{axis: at}, line=line, **label, **panel)
