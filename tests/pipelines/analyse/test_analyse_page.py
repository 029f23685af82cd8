"""What is said of the frequencies: the summary by hand-made curves, the page by its words."""

from __future__ import annotations

import math
import re

import pandas as pd
import pytest

from backdoor_pipeline.pipelines.analyse import page
from backdoor_pipeline.pipelines.analyse.nodes import build_frequency_report, draw_frequencies
from backdoor_pipeline.pipelines.analyse.summary import summarise
from chromium import chromium, console_errors, wait_for  # noqa: F401  # a fixture

STEPS = [0, 4, 8, 12]
NEVER = [1.0, 0.9, 0.8, 0.7]
CURVES = {
    ("triggered", "low"): [0.8, 0.5, 0.1, 0.0],
    ("triggered", "high"): [math.nan] * 4,
    ("clean", "low"): [0.6, 0.4, 0.35, 0.26],
    ("clean", "high"): NEVER,
    ("clean_target", "low"): [0.8, 0.39, 0.2, 0.1],
    ("clean_target", "high"): [math.nan] * 4,
}


def frequencies(curves=CURVES) -> pd.DataFrame:
    """A table whose means over two widths are ``curves``."""
    rows = [
        {"test_set": test_set, "part": part, "step": step, "width": width, "median_distance": 75.0}
        | {"deviation": value + 0.1 * (width - 3), "ratio": 0.9}
        for (test_set, part), curve in curves.items()
        for step, value in zip(STEPS, curve, strict=True)
        for width in (2.0, 4.0)
    ]
    return pd.DataFrame(rows)


def low(**halves: int | None) -> dict:
    """A summary of which only these steps matter."""
    return {name: {"low": {"half_step": step, "halfway_step": 4}} for name, step in halves.items()}


def test_the_moments_of_every_part() -> None:
    summary = summarise(frequencies())
    assert list(summary) == ["triggered", "clean", "clean_target"]
    triggered, clean = summary["triggered"], summary["clean"]
    assert "high" not in triggered and triggered["median_distance"] == 75
    assert triggered["low"] == {
        "initial": pytest.approx(0.8),
        "final": pytest.approx(0.0),
        "half_step": 8,
        "halfway_step": 8,
        "share": pytest.approx(0.9),
    }
    assert (clean["low"]["half_step"], clean["low"]["halfway_step"]) == (12, 4)
    assert (clean["high"]["half_step"], clean["high"]["halfway_step"]) == (None, 8)
    assert summary["clean_target"]["low"]["half_step"] == 4


def test_what_moves_away_from_its_labels_is_never_halfway() -> None:
    moments = summarise(frequencies({("clean", "low"): [0.5, 0.6, 0.7, 0.6]}))["clean"]["low"]
    assert moments["half_step"] is moments["halfway_step"] is None


@pytest.mark.parametrize(
    ("triggered", "clean", "headline"),
    [
        (8, 12, "Triggered rows came near their labels first"),
        (8, None, "Triggered rows came near their labels first"),
        (None, 12, "Clean rows came near their labels first"),
        (12, 12, "Both sets came near their labels at once"),
        (None, None, "No set came near its labels"),
    ],
)
def test_the_headline_says_who_was_first(triggered, clean, headline) -> None:
    verdict = page.judge(low(triggered=triggered, clean=clean))
    assert verdict.headline == headline
    assert len(verdict.sentences) == 2  # nothing is said of the control, which is not there
    assert ("never" in verdict.sentences[0]) == (None in (triggered, clean))


@pytest.fixture
def html(make_parameters):
    """The page."""
    changes = {"poison.attack": "addsent", "source.data": "<b>x</b>", "observation.every": 12}
    parameters, table = dict(make_parameters(**changes)), frequencies()
    return build_frequency_report(summarise(table), parameters, **draw_frequencies(table))


@pytest.fixture
def text(html):
    """What a reader of the page sees."""
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", html)  # it opens offline
    body = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    assert "<b>x" not in body
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_the_page_says_what_was_seen_and_what_it_rests_on(text) -> None:
    assert "Triggered rows came near their labels first" in text
    assert "triggered rows after 8 steps, clean rows after 12 steps." in text
    assert "Clean rows of the target label, whose labels are all the same as well: after 4" in text
    assert "their low part was halfway to where it ended after 4 steps, their high part" in text
    assert "looked at every 12 steps" in text


def test_the_page_shows_settings_distances_and_traps(text) -> None:
    assert "addsent 10.0 % / seed 0" in text
    for setting in ("fourier.narrowest", "observation.rows", "training.learning_rate"):
        assert setting in text
    assert "tracking.run_name" not in text
    assert re.search(r"triggered rows low 0\.8 0 8 steps 8 steps 90\.0 % 75 ", text)
    assert re.search(r"clean rows high 1 0\.7 never 8 steps", text)
    assert "Grey: the labels have no such part" in text
    assert f"{math.exp(-75 / 16):.3g} of the text itself at σ = 8" in text


@pytest.mark.browser
def test_the_page_draws_itself(html, chromium, tmp_path) -> None:  # noqa: F811
    file = tmp_path / "page.html"
    file.write_text(html, encoding="utf-8")
    chromium.get(file.as_uri())
    for name in ("frequency_curves", "frequency_map"):
        drawn = f"return document.querySelectorAll('#figure-{name} svg.main-svg').length"
        wait_for(lambda drawn=drawn: chromium.execute_script(drawn))
    assert console_errors(chromium) == []
