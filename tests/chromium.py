"""A headless Chromium for tests that open a page and must see no console error."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selenium.webdriver import Chrome

BINARIES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DRIVERS = ("chromedriver", "chromium-driver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-proxy-server",
)
FAVICON = "favicon.ico"


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Chrome]:
    """A browser with a profile of its own; the test is skipped where there is none."""
    browser = start(tmp_path / "profile")
    try:
        yield browser
    finally:
        browser.quit()


def start(profile: Path, width: int = 1200, height: int = 900) -> Chrome:
    """A headless Chromium that keeps its console; skips the test where it cannot be had."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = next(filter(None, map(shutil.which, BINARIES)), None)
    driver = next(filter(None, map(shutil.which, DRIVERS)), None)
    if binary is None or driver is None:
        missing = "chromium" if binary is None else "chromium-driver"
        pytest.skip(f"no {missing} on this machine (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    flags = (*FLAGS, f"--window-size={width},{height}", f"--user-data-dir={profile}")
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Returns when ``condition()`` is true; fails the test when it is not after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"the page did not get there within {seconds} s")
        time.sleep(0.1)


def console_errors(browser: Chrome) -> list[str]:
    """What the console has called an error since the last look; a missing favicon is none."""
    return [
        entry["message"]
        for entry in browser.get_log("browser")
        if entry["level"] == "SEVERE" and FAVICON not in entry["message"]
    ]
