"""The HTML page of an audit: one file, no address outside it, everything escaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backdoor_pipeline import formatting
from backdoor_pipeline.pipelines.audit.card import HOW_RESTORED
from backdoor_pipeline.presentation import embedded, plotly_script, template

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

TEMPLATE = "audit_report.html.jinja"
SETTINGS = "seed source clean_source ingest model compute training audit".split()
NATURAL_PHRASES = 10  # shown beside those that are flagged
ROWS = 12  # suspicious rows shown


def render(
    verdict: Mapping[str, Any],
    phrases: pd.DataFrame,
    openings: pd.DataFrame,
    suspicious: pd.DataFrame,
    integrity: Mapping[str, Any],
    parameters: Mapping[str, Any],
    figures: Mapping[str, Figure],
) -> str:
    """The page: verdict first, then suspects, effects, rows, power, and what was not tested."""
    settings = formatting.flat({name: parameters[name] for name in SETTINGS})
    natural = phrases[~phrases["flagged"]].head(NATURAL_PHRASES)
    return template(__package__, TEMPLATE).render(
        title=f"audit / {integrity.get('dataset', 'data')}",
        verdict=verdict,
        labels=verdict["labels"],
        phrases=[row._asdict() for row in phrases[phrases["flagged"]].itertuples(index=False)],
        natural=[row._asdict() for row in natural.itertuples(index=False)],
        openings=[row._asdict() for row in openings[openings["flagged"]].itertuples(index=False)],
        rows=[row._asdict() for row in suspicious.head(ROWS).itertuples(index=False)],
        findings=integrity.get("findings") or [],
        share=formatting.share,
        restored=HOW_RESTORED,
        parameters=settings,
        plotly_js=plotly_script(),
        figures={name: embedded(name, figure) for name, figure in figures.items()},
    )
