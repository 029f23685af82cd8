"""The figures of an audit, as plotly figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backdoor_pipeline.presentation import nothing_to_draw, styled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from plotly.graph_objects import Figure

NATURAL, FLAGGED = "#8c8c8c", "#d55e00"
COLOURS = {"audited": "#d55e00", "repaired": "#009e73"}
NAMED = 12  # phrases whose names stand beside their points
MODES = {"any": "texts of any class", "own": "texts of the target class"}
DASHES = {"any": "solid", "own": "dot"}


def draw_phrases(phrases: pd.DataFrame, label_names: Sequence[str]) -> Figure:
    """How natural each phrase looks, over how far its labels are from what its texts explain."""
    from plotly.graph_objects import Figure

    title = "Phrases that are tied to a label"
    if phrases.empty:
        return nothing_to_draw(title, "No word or phrase is tied to a label beyond chance.")
    figure = Figure()
    for flagged, name, colour in ((False, "natural", NATURAL), (True, "put in", FLAGGED)):
        rows = phrases[phrases["flagged"] == flagged]
        names = [
            phrase if flagged or place < NAMED else ""
            for place, phrase in enumerate(rows["phrase"])
        ]
        hover = [
            f"{row.phrase} → {label_names[row.label]}<br>{row.hits} of {row.texts} texts<br>"
            f"q = {row.q_value:.2g}"
            for row in rows.itertuples()
        ]
        figure.add_scatter(
            x=rows["score"],
            y=rows["residual_z"],
            mode="markers+text",
            text=names,
            textposition="top center",
            textfont={"size": 11},
            hovertext=hover,
            hoverinfo="text",
            name=name,
            marker={"color": colour, "size": 7 + 4 * flagged},
        )
    figure = styled(figure, title)
    figure.update_xaxes(title_text="how natural its places look (0: as natural words do)")
    return figure.update_yaxes(title_text="label beyond what the texts explain (z)")


def draw_power(power: pd.DataFrame, label_names: Sequence[str]) -> Figure:
    """The chance of finding a planted trigger, over the share of texts that hold it."""
    from plotly.graph_objects import Figure

    title = "What this audit finds in this table"
    if power.empty:
        return nothing_to_draw(title, "Too few natural words to compare a phrase with.")
    figure = Figure()
    for (label, mode), rows in power.groupby(["label", "mode"], sort=False):
        figure.add_scatter(
            x=rows["share"],
            y=rows["chance"],
            mode="lines+markers",
            name=f"{label_names[label]}, {MODES[mode]}",
            line={"dash": DASHES[mode]},
            hovertext=[f"{n} texts" for n in rows["texts"]],
        )
    figure = styled(figure, title)
    figure.update_xaxes(title_text="texts with a new word or sentence", tickformat=".1%")
    return figure.update_yaxes(
        title_text="chance of finding it", tickformat=".0%", range=[-0.03, 1.03]
    )


def draw_effects(verdict: Mapping[str, Any]) -> Figure:
    """The share of texts that the presumed trigger flips, of both models, with intervals."""
    from plotly.graph_objects import Figure

    title = "Texts of other classes that flip when the presumed trigger is put in"
    figure = Figure()
    for name, colour in COLOURS.items():
        shares = verdict[f"{name}_model"]["flip_rates"]
        if shares:
            values = [share["value"] for share in shares.values()]
            figure.add_bar(
                x=list(shares),
                y=values,
                name=f"{name} model",
                marker_color=colour,
                error_y={
                    "array": [share["high"] - share["value"] for share in shares.values()],
                    "arrayminus": [share["value"] - share["low"] for share in shares.values()],
                },
            )
    if not figure.data:
        reason = verdict["audited_model"]["reason"] or "there is nothing to put into texts"
        return nothing_to_draw(title, f"Not measured: {reason}.")
    figure = styled(figure, title)
    figure.update_xaxes(type="category")
    return figure.update_yaxes(tickformat=".0%", range=[0, 1.05])
