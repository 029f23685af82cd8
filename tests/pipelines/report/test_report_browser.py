"""The page in a real browser: it draws, it marks, and its console stays quiet."""

from __future__ import annotations

import pytest

from chromium import console_errors, wait_for

pytestmark = pytest.mark.browser
FIGURES = ("before_after", "drift", "association", "training")
DRAWN = "return document.querySelectorAll('#figure-{} svg.main-svg').length"


def test_page_draws_itself_without_a_network(cell, build_page, chromium, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(build_page(cell), encoding="utf-8")
    chromium.get(file.as_uri())
    for name in FIGURES:
        wait_for(lambda name=name: chromium.execute_script(DRAWN.format(name)))
    marks = chromium.execute_script(
        "return [...document.querySelectorAll('#trigger mark')].map(mark => mark.textContent)"
    )
    assert marks == ["cf"] * 8
    assert "found and removed" in chromium.find_element("id", "verdict").text
    requests = chromium.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert not [url for url in requests if not url.startswith(("data:", "blob:"))]
    assert console_errors(chromium) == []


def test_page_fits_a_phone(cell, build_page, chromium, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(build_page(cell), encoding="utf-8")
    phone = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    chromium.get(file.as_uri())
    wait_for(lambda: chromium.execute_script(DRAWN.format("training")))
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= 400


def test_hostile_texts_do_nothing(cell, build_page, chromium, tmp_path):
    attack = "<script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\">"
    for name in ("poisoned_train", "triggered_test", "examples"):
        cell[name] = cell[name].assign(text=attack + " " + cell[name]["text"])
    cell["suspects"] = cell["suspects"].assign(evidence=attack, flagged=True)
    cell["integrity"]["label_names"] = [attack, attack]
    file = tmp_path / "report.html"
    file.write_text(build_page(cell), encoding="utf-8")
    chromium.get(file.as_uri())
    for name in FIGURES:
        wait_for(lambda name=name: chromium.execute_script(DRAWN.format(name)))
    assert chromium.title.startswith("btu_calibrated / ")
    assert console_errors(chromium) == []
