"""Clients that make idempotent calls all the time and make a failed one again, as API clients are told to."""

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from deployments.retry import RetryPolicy

RETRY = RetryPolicy()
_TIMEOUT_S = 60.0
_PAUSE_S = 0.02
LINES = 4
"""Clients that call at a time, so that one call or another is under way whenever something dies."""


@dataclass(slots=True)
class Calls:
    """What became of all calls."""

    made: int = 0
    good: int = 0
    """Calls with a good answer."""
    tried_again: int = 0
    """Attempts beyond the first one."""
    failed: dict[str, int] = field(default_factory=dict)
    """Calls that no attempt brought through, by what the last one got."""
    longest_gap_s: float = 0.0
    """Longest time between two good answers, whoever got them."""

    def miss(self, why: str) -> None:
        self.failed[why] = self.failed.get(why, 0) + 1


class PatientClients:
    """LINES clients; each looks at an analysis, at its clips, and asks for it again with its key, until `stop`."""

    def __init__(self, url: str, analysis: str, body: dict[str, Any], key: str) -> None:
        self._requests: list[tuple[str, str, dict[str, Any]]] = [
            ("GET", f"{url}{analysis}", {}),
            ("GET", f"{url}{analysis}/clips", {}),
            ("POST", f"{url}/v1/analyses", {"json": body, "headers": {"Idempotency-Key": key}}),
        ]
        self._ended = threading.Event()
        self._rng = random.Random(0)
        self._good_s = 0.0
        self.calls = Calls()

    def stop(self) -> None:
        self._ended.set()

    async def run(self) -> None:
        """Call until stopped. Raises RuntimeError when an answer says that the call itself was wrong."""
        self._good_s = time.monotonic()
        async with httpx2.AsyncClient(timeout=_TIMEOUT_S) as http, asyncio.TaskGroup() as lines:
            for line in range(LINES):
                lines.create_task(self._go_on(http, line))

    async def _go_on(self, http: httpx2.AsyncClient, line: int) -> None:
        while not self._ended.is_set():
            method, url, options = self._requests[line % len(self._requests)]
            line += 1
            self.calls.made += 1
            if await self._call(http, method, url, options):
                now_s = time.monotonic()
                self.calls.good += 1
                self.calls.longest_gap_s = max(self.calls.longest_gap_s, now_s - self._good_s)
                self._good_s = now_s
            await asyncio.sleep(_PAUSE_S)

    async def _call(self, http: httpx2.AsyncClient, method: str, url: str, options: dict[str, Any]) -> bool:
        why = "none"
        for attempt in range(RETRY.attempts):
            if attempt:
                self.calls.tried_again += 1
                await asyncio.sleep(RETRY.wait_s(attempt, self._rng))
            try:
                answer = await http.request(method, url, **options)
            except httpx2.TransportError as error:
                why = type(error).__name__
                continue
            if answer.is_success:
                return True
            if answer.status_code < 500 and answer.status_code != 429:
                raise RuntimeError(f"{method} must be well formed, got {answer.status_code}: {answer.text}")
            why = str(answer.status_code)
        self.calls.miss(why)
        return False


@contextmanager
def calling(clients: PatientClients) -> Iterator[Calls]:
    """Have the clients call from a thread of their own; give what becomes of the calls. Raises what they raise."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(clients.run())
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield clients.calls
    finally:
        clients.stop()
        thread.join(_TIMEOUT_S * RETRY.attempts)
    if raised:
        raise raised[0]
