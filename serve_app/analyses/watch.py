"""Follow analyses as they go on: one look at the store for all who watch the same one."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
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
        self._failure: Exception | None = None
        self.looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        try:
            await self._look_on()
        except Exception as failure:  # a journal that makes no sense: those who wait must not wait for ever
            async with self._changed:
                self._failure = failure
                self._changed.notify_all()

    async def _look_on(self) -> None:
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

    async def beyond(self, last_id: int) -> AsyncIterator[list[Event]]:
        """Yield the next events behind `last_id`, some at a time, as soon as there are any."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.last_id > last_id or self._failure)
            upto, recent = self.last_id, [event for event in self._recent if event.id > last_id]
        if recent and recent[0].id == last_id + 1:
            yield recent
        elif upto > last_id:
            async for events in self._journal.between(last_id, upto):
                yield events
        elif self._failure:
            raise self._failure


class Watch:
    """Everybody who watches an analysis at this gateway."""

    def __init__(self) -> None:
        self._tails: dict[str, _Tail] = {}

    @property
    def watchers(self) -> int:
        return sum(tail.watchers for tail in self._tails.values())

    async def events(
        self, analysis_id: str, journal: Journal, after: int, last_id: int
    ) -> AsyncGenerator[list[Event], None]:
        """Yield every event behind the id `after` once and in order, some at a time; end behind the last `done`.

        Those up to `last_id`, which is not below `after`, stand. Raises StorageFailed.
        """
        over = False
        async for events in journal.between(after, last_id):
            after, over = events[-1].id, events[-1].type == "done"
            yield events
        if over:
            return
        tail = self._tails.get(analysis_id)
        if tail is None:
            tail = self._tails[analysis_id] = _Tail(journal, after)
        tail.watchers += 1
        try:
            while not over:
                async for events in tail.beyond(after):
                    after, over = events[-1].id, events[-1].type == "done"
                    yield events
        finally:
            tail.watchers -= 1
            if not tail.watchers:
                self._tails.pop(analysis_id, None)
                tail.looking.cancel()
                with suppress(asyncio.CancelledError):
                    await tail.looking
