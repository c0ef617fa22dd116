"""A real Chromium for the tests of the page: headless, driven by Playwright over its own protocol.

Whatever goes wrong in the page (an error, a refused script, a dialog) fails the test that it happens in.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, expect, sync_playwright

from tests.ray_cluster import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
SCREENSHOTS = ROOT / "build" / "page"
"""Where screenshots are left to be looked at."""

FLAGS = ["--no-sandbox", "--disable-dev-shm-usage"]
"""Tests run as root in containers, where Chromium's own sandbox and a large /dev/shm are not to be had."""
_REFUSED = re.compile(r"Failed to load resource: the server responded with a status of (4\d\d|503)")
_GONE = re.compile(r"net::ERR_")
_PATIENCE_MS = 20_000
expect.set_options(timeout=_PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # For each module anew: while Playwright's loop runs in this thread, asyncio.run of other modules' tests would not.
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


class Faults:
    """What went wrong in a page. Answers that the service means (4xx, 503) and a service that is gone are none."""

    def __init__(self, page: Page, answers: list[bool]) -> None:
        self.seen: list[str] = []
        self._answers = answers
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.seen.append(f"uncaught: {error}"))
        page.on("crash", lambda _: self.seen.append("the page crashed"))
        page.on("dialog", self._dialog)

    def _dialog(self, dialog: Dialog) -> None:
        if not self._answers:
            self.seen.append(f"dialog: {dialog.message}")
            dialog.dismiss()
        elif self._answers.pop(0):
            dialog.accept()
        else:
            dialog.dismiss()

    def _console(self, message: ConsoleMessage) -> None:
        text = message.text
        if message.type == "error" and not _REFUSED.match(text) and not _GONE.search(text):
            self.seen.append(text)


@pytest.fixture
def answers() -> list[bool]:
    """What the next dialogs are answered; one without an answer is a fault."""
    return []


@pytest.fixture
def page(browser: Browser, answers: list[bool]) -> Iterator[Page]:
    """A page of a fresh profile, 1280x900; nothing may go wrong in it."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(_PATIENCE_MS)
    opened = context.new_page()
    faults = Faults(opened, answers)
    yield opened
    context.close()
    assert faults.seen == []


def screenshot(page: Page, name: str) -> Path:
    """Take a picture of the whole page, in a window of its height: what is out of sight is not drawn."""
    path, window = SCREENSHOTS / f"{name}.png", page.viewport_size
    assert window is not None
    height: int = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": window["width"], "height": max(height, window["height"])})
    page.screenshot(path=path)
    page.set_viewport_size(window)
    return path


def sideways(page: Page) -> int:
    """Return by how many pixels the page is wider than the window."""
    pixels: int = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return pixels
