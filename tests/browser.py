"""A real Chromium for the tests of the page: headless, driven by Playwright over its own protocol.

Whatever goes wrong in the page (an error, a refused script, a dialog) fails the test that it happens in.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.ray_cluster import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
SCREENSHOTS = ROOT / "build" / "page"
"""Where screenshots are left to be looked at."""

_FLAGS = ["--no-sandbox", "--disable-dev-shm-usage"]
"""Tests run as root in containers, where Chromium's own sandbox and a large /dev/shm are not to be had."""
_REFUSED = re.compile(r"Failed to load resource: the server responded with a status of (4\d\d|503)")
_GONE = re.compile(r"net::ERR_")
_PATIENCE_MS = 20_000
expect.set_options(timeout=_PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # For each module anew: while Playwright's loop runs in this thread, asyncio.run of other modules' tests would not.
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        yield launched
        launched.close()


class Faults:
    """What went wrong in a page. Answers that the service means (4xx, 503) and a service that is gone are none."""

    def __init__(self, page: Page) -> None:
        self.seen: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.seen.append(f"uncaught: {error}"))
        page.on("crash", lambda _: self.seen.append("the page crashed"))
        page.on("dialog", lambda dialog: (self.seen.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def _console(self, message: ConsoleMessage) -> None:
        text = message.text
        if message.type == "error" and not _REFUSED.match(text) and not _GONE.search(text):
            self.seen.append(text)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a fresh profile, 1280x900; nothing may go wrong in it."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(_PATIENCE_MS)
    opened = context.new_page()
    faults = Faults(opened)
    yield opened
    context.close()
    assert faults.seen == []


def screenshot(page: Page, name: str) -> Path:
    path = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=path, full_page=True)
    return path
