"""Does the web page stay smooth with 2,000 captions, and how much must be sent before it shows? `make bench-page`.

Real: the app on Ray, a video in 2,000 clips, and Chromium without a window. Simulated: the model. The page is scrolled
by the wheel and searched key by key; between a step and the second frame after it, Chromium's own counters tell how
long scripts ran and how long its main thread worked at all (scripts, styles, layout). A step spans at least one frame,
so that a step's time is no less than a frame's.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from playwright.sync_api import CDPSession, Page, expect, sync_playwright

from benchmarks.films import write_film
from benchmarks.results_file import Bar, write_result
from benchmarks.service import MODEL, Service, running, simulated_args
from tests.browser import CHROMIUM, FLAGS

CLIPS = 2000
WINDOW = {"width": 1280, "height": 900}
STEPS, WHEEL_PX = 200, 400
KEYS = [key for word in ("caption of", "from 1234.0", "brightness") for key in (*word, *["Backspace"] * len(word))]
FRAME_MS, MOST_BYTES = 16.0, 200_000
_DEADLINE_S = 600.0


class Counters:
    """Chromium's counters of one page: what a step adds to them, in milliseconds."""

    NAMES = ("ScriptDuration", "TaskDuration")

    def __init__(self, page: Page, protocol: CDPSession) -> None:
        self._page, self._protocol = page, protocol
        protocol.send("Performance.enable")

    def of(self, step: Callable[[], object]) -> tuple[float, float]:
        """Return how long scripts ran and the main thread worked from before the step to its second frame."""
        before = self._read()
        step()
        self._page.evaluate("() => new Promise((seen) => requestAnimationFrame(() => requestAnimationFrame(seen)))")
        script, task = (after - then for after, then in zip(self._read(), before, strict=True))
        return 1000 * script, 1000 * task

    def _read(self) -> list[float]:
        told = {one["name"]: one["value"] for one in self._protocol.send("Performance.getMetrics")["metrics"]}
        return [told[name] for name in self.NAMES]


def described(service: Service) -> str:
    """Return the id of an analysis with so many captions."""
    film = write_film("page", width=160, height=90, duration_s=float(CLIPS))
    body = {"file_id": service.upload(film), "clip_duration_s": 1.0}
    analysis: str = service.ask("POST", "/v1/analyses", json=body)["id"]
    done = service.finished(f"/v1/analyses/{analysis}", deadline_s=_DEADLINE_S)
    if done["progress"]["clips_done"] != CLIPS:
        raise RuntimeError(f"expected {CLIPS} captions, got {done['progress']}")
    return analysis


def sent_bytes(page: Page, protocol: CDPSession, url: str) -> int:
    """Return how many bytes come over the wire until the page without an analysis has loaded, headers included."""
    sent: dict[str, float] = {}
    asked: dict[str, str] = {}
    protocol.send("Network.enable")
    protocol.on("Network.requestWillBeSent", lambda told: asked.update({told["requestId"]: told["request"]["url"]}))
    protocol.on("Network.loadingFinished", lambda told: sent.update({told["requestId"]: told["encodedDataLength"]}))
    page.goto(url, wait_until="networkidle")
    return round(sum(size for request, size in sent.items() if "/v1/" not in asked[request]))


def row(steps: list[tuple[float, float]]) -> dict[str, float]:
    scripts, tasks = zip(*steps, strict=True)
    return {
        "steps": len(steps),
        "script, median ms": statistics.median(scripts),
        "script, worst ms": max(scripts),
        "main thread, median ms": statistics.median(tasks),
        "main thread, worst ms": max(tasks),
    }


def main() -> None:
    """Measure and write `results/page.json`."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), simulated_args(Path(folder), clip_engine_s=0.0, in_flight=64)) as service,
    ):
        analysis = described(service)
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = chromium.new_page(viewport=WINDOW)  # type: ignore[arg-type]
            protocol = page.context.new_cdp_session(page)
            arrived_bytes = sent_bytes(page, protocol, service.url)
            opened_s = time.perf_counter()
            page.goto(f"{service.url}/#{analysis}")
            expect(page.locator("#captions li")).to_have_count(CLIPS, timeout=60_000)
            shown_s = time.perf_counter() - opened_s
            counters = Counters(page, protocol)
            page.locator("#captions").scroll_into_view_if_needed()
            page.locator("#captions").hover()
            scrolled = [counters.of(lambda: page.mouse.wheel(0, WHEEL_PX)) for _ in range(STEPS)]
            page.locator("#search").focus()
            searched = [counters.of(partial(page.keyboard.press, key)) for key in KEYS]
            version = chromium.version
    figures: dict[str, Any] = {"scroll": row(scrolled), "search": row(searched)}
    figures |= {"first paint": {"bytes": arrived_bytes}, "2,000 captions told anew": {"seconds": shown_s}}
    bars = {
        "page: bytes sent until it shows": Bar(arrived_bytes, MOST_BYTES, "B", "lower"),
        f"page, {CLIPS} captions: script of a scroll step, median": Bar(
            figures["scroll"]["script, median ms"], FRAME_MS, "ms", "lower"
        ),
        f"page, {CLIPS} captions: script of a search step, median": Bar(
            figures["search"]["script, median ms"], FRAME_MS, "ms", "lower"
        ),
    }
    write_result("page", figures, bars, model=MODEL, shape=f"{CLIPS} clips, window 1280x900, Chromium {version}")


if __name__ == "__main__":
    main()
