"""The page in a real browser: it draws, fits, and its console stays quiet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backdoor_pipeline.experiments.exports import write
from chromium import console_errors, start, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

pytestmark = pytest.mark.browser
DRAWN = "return document.querySelectorAll('#figure-{} svg.main-svg').length"
HOSTILE = "<script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\">"
PHONE = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Chrome]:
    """One for both tests; its start takes longer than a test."""
    browser = start(tmp_path_factory.mktemp("browser") / "profile")
    try:
        yield browser
    finally:
        browser.quit()


def draws_without_a_network(browser: Chrome, folder: Path) -> None:
    browser.get((folder / "leaderboard.html").as_uri())
    for name in ("before_after", "frontier", "critical_difference"):
        wait_for(lambda name=name: browser.execute_script(DRAWN.format(name)))
    assert browser.title.startswith("Leaderboard: 2 data sets")
    requests = browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert not [url for url in requests if not url.startswith(("data:", "blob:"))]
    assert console_errors(browser) == []


def test_names_from_the_data_do_nothing(grid, browser, tmp_path):
    columns = ("dataset", "attack", "recipe", "error")
    write(tmp_path, grid.assign(**{name: grid[name] + HOSTILE for name in columns}))
    draws_without_a_network(browser, tmp_path)


def test_page_fits_a_phone(grid, browser, tmp_path):
    write(tmp_path, grid)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    draws_without_a_network(browser, tmp_path)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE["width"]
