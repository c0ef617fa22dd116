"""The events of one analysis: numbered from 1 without gaps, written by one runner at a time, never changed.

Each object below the journal's prefix holds one or more events and is named by the first one's id. It is created once,
so that of two runners that both think it is their turn only one writes on; the other finds its place taken and stops.
"""

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from obstore.store import ObjectStore

from deployments.errors import Deposed
from pipelines import store as objects

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

    async def after(self, last_id: int) -> list[Event]:
        """Return the next events behind `last_id` as far as one object holds them; none when there are none yet."""
        data = await objects.find(self._store, self._path(last_id + 1))
        return [] if data is None else _loads(data)

    async def all_after(self, last_id: int) -> list[Event]:
        """Return every event behind `last_id`, many objects at a time."""
        paths = sorted(await objects.sizes_below(self._store, self._prefix.rstrip("/")))
        # The object that holds `last_id` may go on behind it.
        first = max(0, bisect_right(paths, self._path(last_id)) - 1)
        found = await objects.get_all(self._store, paths[first:])
        return [event for data in found for event in _loads(data) if event.id > last_id]

    def _path(self, first_id: int) -> str:
        return f"{self._prefix}{first_id:08d}.json"


def _loads(data: bytes) -> list[Event]:
    return [Event(**fields) for fields in json.loads(data)]
