"""What is known of videos by now, ready to be searched: a question reads what is new in an analysis, and no more."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from obstore.store import ObjectStore

from pipelines.exports import event_line
from pipelines.retrieval import Entry, Retriever
from serve_app.analyses.followed import View
from serve_app.analyses.ledger import AnalysisLedger
from serve_app.chat.vectors import Vector, Vectors
from serve_app.principal import Principal

_KEPT = 16
"""Timelines in memory, those last asked about: one of 12 hours, 4,320 clips of 10 s, takes about 10 MB,
and with vectors of 1,536 numbers 40 MB."""
_PLACES = 4
"""Most of one sentence of a summary."""


@dataclass(frozen=True, slots=True)
class Known:
    """What finds the described clips of an analysis, and its latest summary: what it says, of which clips."""

    retriever: Retriever
    summary: tuple[Entry, ...]


@dataclass(slots=True)
class _Timeline:
    entries: dict[int, Entry] = field(default_factory=dict)
    summary: tuple[Entry, ...] = ()
    last_id: int = 0
    retriever: Retriever | None = None
    vectors: dict[int, Vector] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Timelines:
    """The timelines of every owner's analyses in `store`."""

    def __init__(self, store: ObjectStore, vectors: Vectors | None = None) -> None:
        self._store = store
        self._vectors = vectors
        self._kept: OrderedDict[str, _Timeline] = OrderedDict()

    async def known(self, principal: Principal, view: View) -> Known:
        """Return what is known of the owner's analysis as far as it was described in the view.

        Raises StorageFailed, also when the analysis has been deleted meanwhile.
        """
        one = view.request.id
        timeline = self._kept.setdefault(one, _Timeline())
        self._kept.move_to_end(one)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        async with timeline.lock:
            journal = AnalysisLedger(self._store, principal.owner, one).journal
            last_id = view.progress.last_id
            async for events in journal.between(timeline.last_id, last_id):
                for event in events:
                    if event.type == "clip":
                        _take(timeline, event.data)
                    elif event.type == "summary":
                        timeline.summary = tuple(_told(event.data["passages"]))
                timeline.last_id = events[-1].id
            if self._vectors is not None and self._vectors.may_see(allow_cloud=view.request.options.allow_cloud):
                await self._take_vectors(self._vectors, principal, one, timeline)
            if timeline.retriever is None:
                entries, duration_s = list(timeline.entries.values()), view.request.video.duration_s
                timeline.retriever = await asyncio.to_thread(Retriever, entries, duration_s, timeline.vectors)
            return Known(timeline.retriever, timeline.summary)

    async def _take_vectors(self, vectors: Vectors, principal: Principal, one: str, timeline: _Timeline) -> None:
        if timeline.vectors is None:
            timeline.vectors = await vectors.kept(principal, one)
        known = timeline.vectors
        missing = {clip: entry.words for clip, entry in timeline.entries.items() if clip not in known}
        if await vectors.add(principal, one, missing, known):
            timeline.retriever = None


def _take(timeline: _Timeline, clip: dict[str, Any]) -> None:
    if text := clip.get("text"):
        events = tuple(event_line(event) for event in clip.get("events") or ())
        timeline.entries[clip["index"]] = Entry(clip["index"], clip["start_s"], clip["end_s"], text, events)
        timeline.retriever = None


def _told(passages: list[dict[str, Any]]) -> Iterator[Entry]:
    for passage in passages:
        for place in passage["citations"][:_PLACES]:
            yield Entry(place["clip"], place["start_s"], place["end_s"], passage["text"])
