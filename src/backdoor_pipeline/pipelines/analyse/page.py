"""The HTML page of the analysis: one file, no address outside it, everything escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from backdoor_pipeline import formatting
from backdoor_pipeline.presentation import embedded, plotly_script, template

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

TEMPLATE = "frequency_report.html.jinja"
SETS = {
    "triggered": "triggered rows",
    "clean": "clean rows",
    "clean_target": "clean rows of the target label",
}
SETTINGS = "seed source ingest poison model compute training observation fourier".split()


class Verdict(NamedTuple):
    """What was seen, in a headline and sentences."""

    headline: str
    sentences: list[str]


def render(
    summary: Mapping[str, Any], parameters: Mapping[str, Any], figures: Mapping[str, Figure]
) -> str:
    """The page.

    Args:
        summary: As ``summary.summarise`` returns it.
        parameters: Of the run; those that the analysis depends on are shown.
        figures: ``frequency_map`` and ``frequency_curves``.
    """
    settings = formatting.flat({name: parameters[name] for name in SETTINGS})
    widths = (settings["fourier.narrowest"], settings["fourier.widest"])
    return template(__package__, TEMPLATE).render(
        title=_title(settings),
        verdict=judge(summary),
        every=settings["observation.every"],
        rows=[
            {"name": SETS[name], "part": part, "distance": parts["median_distance"]} | parts[part]
            for name, parts in summary.items()
            for part in ("low", "high")
            if part in parts
        ],
        weights={w: math.exp(-summary["clean"]["median_distance"] / (2 * w)) for w in widths},
        parameters=settings,
        plotly_js=plotly_script(),
        figures={name: embedded(name, figure) for name, figure in figures.items()},
    )


def judge(summary: Mapping[str, Any]) -> Verdict:
    """Which set's low part came near its labels first, by ``half_step``, and what that rests on."""
    steps = {name: parts["low"]["half_step"] for name, parts in summary.items()}
    triggered, clean = (math.inf if steps[s] is None else steps[s] for s in ("triggered", "clean"))
    if triggered == clean:
        both, neither = "Both sets came near their labels at once", "No set came near its labels"
        headline = neither if math.isinf(clean) else both
    else:
        first = "Triggered" if triggered < clean else "Clean"
        headline = f"{first} rows came near their labels first"
    sentences = [
        "Distance of the low part from the labels below half of what it was at first: triggered "
        f"rows {_when(steps['triggered'])}, clean rows {_when(steps['clean'])}."
    ]
    if "clean_target" in steps:
        sentences.append(
            "Clean rows of the target label, whose labels are all the same as well: "
            f"{_when(steps['clean_target'])}."
        )
    low, high = (summary["clean"].get(part, {}).get("halfway_step") for part in ("low", "high"))
    sentences.append(
        "Low before high can be told from clean rows alone: their low part was halfway to where "
        f"it ended {_when(low)}, their high part {_when(high)}."
    )
    return Verdict(headline, sentences)


def _when(step: int | None) -> str:
    return "never" if step is None else f"after {formatting.counted(step, 'step')}"


def _title(settings: Mapping[str, Any]) -> str:
    data = settings["source.data"] or settings["source.dataset"]
    attack = f"{settings['poison.attack']} {formatting.percent(settings['poison.rate'])}"
    return " / ".join(["fourier", data, attack, f"seed {settings['seed']}"])
