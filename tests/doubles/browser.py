"""A real browser, headless, as the people have it who look at our pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

__all__ = ["browsing"]

_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1400,1000"),
    # Nothing goes to anybody but the server of the test.
    *("--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def browsing(directory: Path) -> Iterator[Chrome]:
    """Yield Chromium with an empty profile in *directory*, which has a picture of the page if the block raises."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    # Given, so that Selenium does not look for one to download.
    options.binary_location = chromium
    for option in (*_OPTIONS, f"--user-data-dir={directory / 'profile'}"):
        options.add_argument(option)
    with webdriver.Chrome(options, webdriver.ChromeService(chromedriver)) as browser:
        try:
            yield browser
        except BaseException:
            browser.save_screenshot(str(directory / "failed.png"))
            raise
