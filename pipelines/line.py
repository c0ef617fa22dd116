"""The clips that wait for a model, in the order in which they were asked: how long one may wait without any progress.

A model answers first who came first, so what was asked before a clip is in its way: each answer to it is progress. What
was asked later is not: it may go on for ever. So a place's time ends, at the latest, after its patience for each clip
that was asked before it, and once more for itself.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary


@dataclass(eq=False, slots=True)
class Place:
    """One clip's place; `give_up_s` is on the event loop's clock and moves with each answer to a clip before it."""

    number: int
    patience_s: float
    give_up_s: float
    _timeout: asyncio.Timeout | None = None

    @asynccontextmanager
    async def limited(self) -> AsyncIterator[None]:
        """Raise TimeoutError in what is inside when its time is over."""
        async with asyncio.timeout_at(self.give_up_s) as self._timeout:
            try:
                yield
            finally:
                self._timeout = None

    def renew(self, now_s: float) -> None:
        self.give_up_s = now_s + self.patience_s
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(self.give_up_s)


class Line:
    """Everybody who waits for one model in this process, whatever analysis the clips are of."""

    def __init__(self) -> None:
        self._numbers = count()
        self._places: set[Place] = set()
        self.answers = 0
        """How often the model has dealt with a clip, be it by a refusal."""

    def enter(self, patience_s: float) -> Place:
        """Take the last place."""
        now_s = asyncio.get_running_loop().time()
        place = Place(next(self._numbers), patience_s, now_s + patience_s)
        self._places.add(place)
        return place

    def answered(self, place: Place) -> None:
        """Say that the model has dealt with this clip, and so with one that others wait behind."""
        self.answers += 1
        now_s = asyncio.get_running_loop().time()
        for other in self._places:
            if other.number > place.number:
                other.renew(now_s)

    def go_back(self, place: Place) -> None:
        """Take the last place again: the clip is asked once more, behind all who wait by now."""
        place.number = next(self._numbers)

    def leave(self, place: Place) -> None:
        self._places.discard(place)


_lines: WeakKeyDictionary[Any, Line] = WeakKeyDictionary()


def line_before(model: object) -> Line:
    """Return the one line of all who ask this describer."""
    return _lines.setdefault(model, Line())
