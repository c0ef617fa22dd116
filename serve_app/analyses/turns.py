"""Who of many analyses may decode now: a few at a time, and in turn, so that none waits behind a long one.

Frames that are decoded ahead cost memory for each analysis that decodes, which is why only a few do.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

IsOver = Callable[[], bool]


class Turns:
    """At most `at_once` have a turn; one that has had it for `turn_s` gives way when others wait."""

    def __init__(self, at_once: int, turn_s: float) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._turn_s = turn_s
        self._waiting = 0

    @property
    def full(self) -> bool:
        """Whether the next one would have to wait."""
        return self._places.locked()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[IsOver]:
        """Wait for a turn, and give what says that it is over."""
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        over_s = time.monotonic() + self._turn_s
        try:
            yield lambda: self._waiting > 0 and time.monotonic() >= over_s
        finally:
            self._places.release()
