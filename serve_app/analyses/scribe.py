"""Append events to a journal, each behind the last one, whoever tells them."""

import asyncio
import time
from typing import Any

from serve_app.analyses.journal import Event, EventType, Journal

Told = tuple[EventType, dict[str, Any]]


class Scribe:
    """The one writer of a journal; events that are told while others are written go into the next object together."""

    def __init__(self, journal: Journal, last_id: int) -> None:
        self._journal = journal
        self._last_id = last_id
        self._waiting: list[tuple[asyncio.Future[None], EventType, float, dict[str, Any]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    async def tell(self, kind: EventType, data: dict[str, Any]) -> None:
        """Append an event, as `tell_together` does several."""
        await self.tell_together((kind, data))

    async def tell_together(self, *told: Told) -> None:
        """Append events that stand all or none, which they do when this returns, also when the caller is cancelled.

        Raises Deposed and StorageFailed, from the first failure on every time: nothing can stand behind a gap.
        """
        if self._failure is not None:
            raise self._failure
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        at_s = time.time()
        self._waiting += [(written, kind, at_s, data) for kind, data in told]
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await asyncio.shield(written)

    async def _write(self) -> None:
        while self._waiting:
            some, self._waiting = self._waiting, []
            events = [
                Event(self._last_id + place, kind, at_s, data)
                for place, (_, kind, at_s, data) in enumerate(some, start=1)
            ]
            try:
                await self._journal.append(events)
            except Exception as failure:
                self._failure = failure
                some, self._waiting = some + self._waiting, []
            self._last_id = events[-1].id
            for written in {written for written, *_ in some}:
                if self._failure is None:
                    written.set_result(None)
                else:
                    written.set_exception(self._failure)
                    written.exception()  # its caller may be gone
