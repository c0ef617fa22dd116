"""Follow analyses as they go on: one look at the store for all who watch the same one."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

from deployments.errors import StorageFailed
from serve_app.analyses.journal import Event, Journal

logger = logging.getLogger("ray.serve.vidray.gateway")

POLL_S = 0.25
"""How often a watched journal is looked at: an event is told at most so much after it stands."""
_RECENT_EVENTS = 1024
"""Events kept for those who keep up; who is further behind reads the store at a pace of their own."""


class _Tail:
    """The end of one journal, looked at for as long as somebody watches."""

    def __init__(self, journal: Journal, last_id: int) -> None:
        self.last_id = last_id
        self.watchers = 0
        self._journal = journal
        self._recent: list[Event] = []
        self._changed = asyncio.Condition()
        self.looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            try:
                events = await self._journal.after(self.last_id)
            except StorageFailed as error:
                logger.warning("journal cannot be read", exc_info=error)
                events = []
            if events:
                async with self._changed:
                    self._recent = [*self._recent, *events][-_RECENT_EVENTS:]
                    self.last_id = events[-1].id
                    self._changed.notify_all()
            else:
                await asyncio.sleep(POLL_S)

    async def beyond(self, last_id: int) -> list[Event]:
        """Return events behind `last_id`, at least one, as soon as there are any."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.last_id > last_id)
            if self._recent and self._recent[0].id <= last_id + 1:
                return [event for event in self._recent if event.id > last_id]
        return await self._journal.all_after(last_id)


class Watch:
    """Everybody who watches an analysis at this gateway."""

    def __init__(self) -> None:
        self._tails: dict[str, _Tail] = {}

    @property
    def watchers(self) -> int:
        return sum(tail.watchers for tail in self._tails.values())

    async def events(self, analysis_id: str, journal: Journal, after: int) -> AsyncIterator[list[Event]]:
        """Yield every event behind the id `after` once and in order, some at a time; end behind the last `done`."""
        events = await journal.all_after(after)
        last_id = events[-1].id if events else after
        over = bool(events) and events[-1].type == "done"
        if events:
            yield events
        if over:
            return
        tail = self._tails.get(analysis_id)
        if tail is None:
            tail = self._tails[analysis_id] = _Tail(journal, last_id)
        tail.watchers += 1
        try:
            while not over:
                events = await tail.beyond(last_id)
                last_id, over = events[-1].id, events[-1].type == "done"
                yield events
        finally:
            tail.watchers -= 1
            if not tail.watchers:
                self._tails.pop(analysis_id, None)
                tail.looking.cancel()
                with suppress(asyncio.CancelledError):
                    await tail.looking
