"""What one runner does and has done: counted where it happens, kept by the minute for an hour, told as a report."""

import time
from bisect import bisect_left
from collections import Counter
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from deployments.contracts import LOCAL, Caption, DescribeRequest
from pipelines.describe import Describer
from pipelines.outcome import ClipOutcome

KEPT_MINUTES = 60
Timing = Literal["decode", "describe", "queue", "engine"]

_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)


class Histogram(BaseModel):
    """Times sorted by length: `counts[i]` is how many lay in (`bounds_s[i-1]`, `bounds_s[i]`], the last above all."""

    bounds_s: tuple[float, ...] = _BOUNDS_S
    counts: list[int] = Field(default_factory=lambda: [0] * (len(_BOUNDS_S) + 1))
    sum_s: float = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds


class Minute(BaseModel):
    """What happened within one minute: clips, failed ones by code, and analyses that ended, by state."""

    described: int = 0
    reused: int = 0
    failed: Counter[str] = Field(default_factory=Counter)
    finished: Counter[str] = Field(default_factory=Counter)


class Report(BaseModel):
    """A runner's account of itself at `at_s`. Times are in seconds since 1970, counts since the runner's start.

    Runners and gateways of two versions may meet while one replaces the other: unknown fields are left out.
    """

    model_config = ConfigDict(extra="ignore")

    runner: str
    at_s: float = 0.0
    running: list[str] = []
    """The analyses at work; for the gateways alone, which tell nobody."""
    in_flight: Counter[str] = Field(default_factory=Counter)
    """Clips that a model has been sent and has not answered, by model."""
    last_clip_at_s: float | None = None
    minutes: dict[int, Minute] = Field(default_factory=dict)
    """The last hour, by minutes since 1970."""
    attempts: int = 0
    takeovers: int = 0
    """Attempts at an analysis that its runner had not given free."""
    described: Counter[str] = Field(default_factory=Counter)
    reused: Counter[str] = Field(default_factory=Counter)
    failed: dict[str, Counter[str]] = Field(default_factory=dict)
    """By model, then by code."""
    outside: Counter[str] = Field(default_factory=Counter)
    """Of the described clips those that a model outside saw, by the local model whose they were."""
    bursts: Counter[str] = Field(default_factory=Counter)
    """How often clips began to go outside because the local model was too slow for them, by it."""
    finished: Counter[str] = Field(default_factory=Counter)
    timings: dict[Timing, dict[str, Histogram]] = Field(default_factory=dict)
    """By what was timed, then by model."""
    first_caption: Histogram = Field(default_factory=Histogram)
    """From the acceptance of an analysis to its first caption, by the clocks of two machines."""


class Tally:
    """Counts for one runner; nothing here waits for anything."""

    def __init__(self, runner: str) -> None:
        self.report = Report(runner=runner)

    def attempt(self, *, taken_over: bool) -> None:
        self.report.attempts += 1
        self.report.takeovers += taken_over

    def clip(self, model: str, outcome: ClipOutcome) -> None:
        """Count an outcome that is recorded and told."""
        report, minute = self.report, self._minute()
        report.last_clip_at_s = time.time()
        if outcome.error is not None:
            report.failed.setdefault(model, Counter())[outcome.error.code] += 1
            minute.failed[outcome.error.code] += 1
        elif outcome.reused:
            report.reused[model] += 1
            minute.reused += 1
        else:
            report.described[model] += 1
            report.outside[model] += outcome.served_by != LOCAL
            minute.described += 1
            self.time("decode", model, outcome.decode_s)
            self.time("queue", model, outcome.queue_s)
            self.time("engine", model, outcome.engine_s)

    def first_caption(self, after_s: float) -> None:
        self.report.first_caption.observe(max(0.0, after_s))

    def finished(self, state: str) -> None:
        """Count an analysis whose end is recorded and told."""
        self.report.finished[state] += 1
        self._minute().finished[state] += 1

    def time(self, what: Timing, model: str, seconds: float) -> None:
        self.report.timings.setdefault(what, {}).setdefault(model, Histogram()).observe(seconds)

    def told(self, running: list[str]) -> Report:
        """Return the report as it stands, with the analyses that are at work."""
        self.report.at_s = time.time()
        self.report.running = sorted(running)
        oldest = _minute_of(self.report.at_s) - KEPT_MINUTES
        self.report.minutes = {at: minute for at, minute in self.report.minutes.items() if at > oldest}
        return self.report

    def _minute(self) -> Minute:
        return self.report.minutes.setdefault(_minute_of(time.time()), Minute())


class Metered:
    """A describer whose calls are counted while they last, and timed when they bring a caption."""

    def __init__(self, describer: Describer, tally: Tally, model: str) -> None:
        self._describer = describer
        self._tally = tally
        self._model = model

    async def describe(self, request: DescribeRequest) -> Caption:
        in_flight = self._tally.report.in_flight
        in_flight[self._model] += 1
        begun_s = time.perf_counter()
        try:
            caption = await self._describer.describe(request)
        finally:
            in_flight[self._model] -= 1
        self._tally.time("describe", self._model, time.perf_counter() - begun_s)
        return caption


def _minute_of(at_s: float) -> int:
    return int(at_s // 60)
