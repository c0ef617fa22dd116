"""The events of one analysis: numbered from 1 without gaps, written by one runner at a time, never changed.

Each object below the journal's prefix holds one or more events and is named by the first one's id. It is created once,
so that of two runners that both think it is their turn only one writes on; the other finds its place taken and stops.

Reading asks for the next ids by name and lists nothing: a look costs what is new, however much stands already. Of the
ids inside an object there is no object, so a read costs one request for each event at most.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from obstore.store import ObjectStore

from deployments.errors import Deposed, StorageFailed
from pipelines import store as objects

_OBJECTS_AT_ONCE = 64

EventType = Literal["progress", "clip", "warning", "summary", "done"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at `at_s`, in seconds since 1970."""

    id: int
    type: EventType
    at_s: float
    data: dict[str, Any]


class Journal:
    """The journal in `store` below `prefix`, which ends in a slash."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    async def append(self, events: Sequence[Event]) -> None:
        """Write events whose ids follow on the last one's. Raises Deposed when others stand there, StorageFailed."""
        data = json.dumps([asdict(event) for event in events], ensure_ascii=False, separators=(",", ":")).encode()
        path = self._path(events[0].id)
        # One that stands there with the very same bytes is ours: the answer to writing it was lost.
        if not await objects.create(self._store, path, data) and await objects.get(self._store, path) != data:
            raise Deposed(f"expected event {events[0].id} to be free, got another runner's")

    async def after(self, last_id: int, most: int = 1) -> list[Event]:
        """Return the events behind `last_id` in the objects named by the next `most` ids; none when there are none yet.

        `last_id` is an object's last event, or 0. Raises StorageFailed.
        """
        first_ids = range(last_id + 1, last_id + 1 + most)
        found = await asyncio.gather(*(objects.find(self._store, self._path(one)) for one in first_ids))
        events: list[Event] = []
        for first_id, data in zip(first_ids, found, strict=True):
            if first_id != last_id + 1:
                continue  # the object before holds this event
            if data is None:
                break
            events += _loads(data)
            last_id = events[-1].id
        return events

    async def behind(self, last_id: int) -> AsyncIterator[list[Event]]:
        """Yield all events behind `last_id` that stand, some at a time: one look where there is nothing new.

        `last_id` is an object's last event, or 0. Raises StorageFailed.
        """
        most = 1
        while events := await self.after(last_id, most):
            yield events
            if events[-1].id < last_id + most:
                return  # the next one was not there
            last_id, most = events[-1].id, min(most * 4, _OBJECTS_AT_ONCE)

    async def between(self, after: int, last_id: int) -> AsyncIterator[list[Event]]:
        """Yield the events behind any id `after` at least up to `last_id`, which stands, some at a time.

        What is read for one lot is bounded, wherever it lies. Raises StorageFailed, also when they were deleted.
        """
        most = 1
        while after < last_id:
            events = await self.after(after, min(most, last_id - after)) or await self._rest_of_object(after)
            if not events:
                raise StorageFailed(f"expected event {after + 1} below {self._prefix}, got none any more")
            yield events
            after, most = events[-1].id, min(most * 8, _OBJECTS_AT_ONCE)

    async def _rest_of_object(self, after: int) -> list[Event]:
        """Return the events behind `after` of the object that holds it."""
        last, most = after, 8
        while last > 0:
            first_ids = range(last, max(0, last - most), -1)
            for data in await asyncio.gather(*(objects.find(self._store, self._path(one)) for one in first_ids)):
                if data is not None:
                    return [event for event in _loads(data) if event.id > after]
            last, most = first_ids[-1] - 1, _OBJECTS_AT_ONCE
        return []

    async def all_after(self, last_id: int) -> list[Event]:
        """Return every event behind `last_id`, as `behind` yields them."""
        return [event async for events in self.behind(last_id) for event in events]

    def _path(self, first_id: int) -> str:
        return f"{self._prefix}{first_id:08d}.json"


def _loads(data: bytes) -> list[Event]:
    return [Event(**fields) for fields in json.loads(data)]
