"""What the README says is what was measured."""

from __future__ import annotations

import re

import pytest

from tiny import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = re.compile(r"<!-- (?P<grid>\w+) -->\n(?P<table>.*?)\n<!-- /(?P=grid) -->", re.DOTALL)


def test_it_has_tables() -> None:
    grids = {"text", "musclelora", "potion", "potion_text", "ubt"}
    assert {found["grid"] for found in SECTION.finditer(README)} >= grids


@pytest.mark.parametrize("found", [*SECTION.finditer(README)], ids=lambda found: found["grid"])
def test_its_tables_are_those_of_the_results(found) -> None:
    results = ROOT / "benchmarks" / "results" / found["grid"]
    assert found["table"] == (results / "leaderboard.md").read_text(encoding="utf-8").strip()


def test_the_files_it_names_are_there() -> None:
    named = set(re.findall(r"`((?:benchmarks|conf|notebooks|src)/[\w./-]+)`", README))
    assert named
    yours = {name for name in named if "/my_" in name}
    assert not [name for name in named - yours if not (ROOT / name).exists()]
