"""How pages and figures look: one style sheet, one set of filters, one frame for every figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backdoor_pipeline import formatting

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup
    from plotly.graph_objects import Figure

HEIGHT = 420  # pixels
FILTERS = (
    "number",
    "percent",
    "fine_percent",
    "points",
    "p_value",
    "duration",
    "size",
    "token",
    "counted",
)


def template(package: str, name: str) -> Template:
    """The template ``name`` of ``package``: it escapes everything and lets nothing be undefined.

    It may include ``style.css``; the ``FILTERS`` are functions of ``formatting``.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("backdoor_pipeline")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {filter_: getattr(formatting, filter_) for filter_ in FILTERS}
    return environment.get_template(name)


def plotly_script() -> Markup:
    """Plotly's own script; a page needs it once, for all its figures."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())


def embedded(name: str, figure: Figure) -> Markup:
    """The figure as a part of a page, with the id ``figure-name``."""
    from markupsafe import Markup
    from plotly.io import to_html

    return Markup(
        to_html(
            figure,
            full_html=False,
            include_plotlyjs=False,
            div_id=f"figure-{name}",
            default_height=f"{figure.layout.height}px",
            config={
                "displaylogo": False,
                "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d", "pan2d"],
                "responsive": True,
            },
        )
    )


def styled(figure: Figure, title: str) -> Figure:
    """The figure in the project's frame: fonts, axes, margins, title, legend below."""
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


def nothing_to_draw(title: str, why: str) -> Figure:
    """A flat figure that says in words why there is none."""
    from plotly.graph_objects import Figure

    figure = Figure()
    figure.add_annotation(
        text=why, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper", font_size=15
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return styled(figure, title).update_layout(height=160, margin_b=16)
