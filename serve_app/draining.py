"""How a gateway ends: it is not ready any more, lets go those who only watch, and waits for the requests in flight.

Watchers come back by themselves with the last id they have; to wait for them would be to wait for ever.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Draining:
    """Begun once and never taken back; knows how many requests are in flight."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._in_flight = 0

    @property
    def begun(self) -> bool:
        return self._begun.is_set()

    def begin(self) -> None:
        self._begun.set()

    async def until_begun(self) -> None:
        await self._begun.wait()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request, a stream or a socket as in flight."""
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def until_idle(self, deadline_s: float) -> int:
        """Wait until nothing is in flight, at most so long; return how many requests still are."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._idle.wait()
        except TimeoutError:
            return self._in_flight
        return 0
