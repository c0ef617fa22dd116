"""`vidray submit` while it watches: a dashboard that is gone for a while, and one that stays away."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.errors import ServiceFailed
from serve_app import jobs

LINES = ["one\n", "two\n", "three\n"]


class Dashboard:
    """Tells a line more at each connection, or all at the last one; after `pause_s` seconds more it is gone."""

    def __init__(self, clock: "Clock", *, pause_s: float, silent: bool = False) -> None:
        self.clock, self.pause_s, self.silent, self.connections = clock, pause_s, silent, 0

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        self.connections += 1
        for line in LINES[: self.connections]:
            if not self.silent or self.connections == len(LINES):
                yield line
        self.clock.now_s += self.pause_s
        if self.connections < len(LINES):
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_info(self, job: str) -> Any:
        return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: True))


class Clock:
    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(jobs, "time", made)
    monkeypatch.setattr(jobs, "_AGAIN_S", 0.0)
    return made


@pytest.mark.parametrize("silent", [False, True])
def test_a_job_is_watched_over_any_number_of_lost_connections(
    clock: Clock, capsys: pytest.CaptureFixture[str], silent: bool
) -> None:
    dashboard: Any = Dashboard(clock, pause_s=3600.0, silent=silent)
    asyncio.run(jobs._followed(dashboard, "job", quiet=False))
    assert capsys.readouterr().out == "".join(LINES), "each line once"
    assert dashboard.connections == 3


def test_a_dashboard_that_stays_away_is_given_up(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(job: str) -> AsyncIterator[str]:
        clock.now_s += 25.0
        if clock.now_s:
            raise OSError("gone")
        yield ""

    dashboard: Any = Dashboard(clock, pause_s=0.0)
    monkeypatch.setattr(dashboard, "tail_job_logs", gone)
    with pytest.raises(ServiceFailed, match="expected the job job at the dashboard that took it, got gone"):
        asyncio.run(jobs._followed(dashboard, "job", quiet=False))
    assert clock.now_s == 150.0


def test_an_output_that_cannot_be_written_is_no_fault_of_the_dashboard(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(text: str, out: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(jobs, "write_out", full)
    dashboard: Any = Dashboard(clock, pause_s=0.0)
    with pytest.raises(BrokenPipeError):
        asyncio.run(jobs._followed(dashboard, "job", quiet=False))
    assert dashboard.connections == 1
