"""The analyses that a gateway remembers: a look at one of them reads what is new in its journal, and no more."""

import asyncio
import math
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from obstore.store import ObjectStore

from deployments.errors import NotFound
from pipelines.ids import is_id
from serve_app.analyses.ledger import AnalysisLedger
from serve_app.analyses.progress import Progress
from serve_app.analyses.request import AnalysisRequest

_FOLLOWED = 2048
_SEEN_S = 1.0
"""What was there is taken to be there for so long: a deletion at another gateway shows after at most that."""


@dataclass(frozen=True, slots=True)
class View:
    """An analysis as it stood when it was looked at."""

    request: AnalysisRequest
    progress: Progress


@dataclass(slots=True)
class _Known:
    request: AnalysisRequest
    seen_s: float = -math.inf
    """When it was last seen to be there, by the monotonic clock."""
    progress: Progress = field(default_factory=Progress)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Followed:
    """Every owner's analyses in `store`; the latest looked at are remembered."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def look(self, owner: str, analysis_id: str) -> View:
        """Return the owner's analysis as it stands. Raises NotFound, StorageFailed."""
        ledger = AnalysisLedger(self._store, owner, analysis_id)
        known = await self._remembered(ledger, owner)
        async with known.lock:
            last_id = known.progress.last_id
            async for events in ledger.journal.behind(last_id):
                known.progress.take(events)
            # Another gateway may have deleted it; then there is never anything new.
            now_s = time.monotonic()
            if known.progress.last_id != last_id:
                known.seen_s = now_s
            elif now_s - known.seen_s >= _SEEN_S:
                if not await ledger.exists():
                    self.forget(analysis_id)
                    raise missing(analysis_id)
                known.seen_s = now_s
            return View(known.request, known.progress.copy())

    def begin(self, request: AnalysisRequest) -> View:
        """Return an analysis that was accepted just now, of which there is nothing to read yet."""
        self._known[request.id] = _Known(request)
        self._bound()
        return View(request, Progress())

    def forget(self, analysis_id: str) -> None:
        self._known.pop(analysis_id, None)

    async def _remembered(self, ledger: AnalysisLedger, owner: str) -> _Known:
        one = ledger.analysis_id
        known = self._known.get(one)
        if known is None:
            request = await ledger.request() if is_id(one, "ana") else None
            if request is None:
                raise missing(one)
            known = self._known.setdefault(one, _Known(request))
        if known.request.owner != owner:
            raise missing(one)
        self._known.move_to_end(one)
        self._bound()
        return known

    def _bound(self) -> None:
        while len(self._known) > _FOLLOWED:
            self._known.popitem(last=False)


def missing(analysis_id: str) -> NotFound:
    return NotFound(f"expected one of your analyses, got {analysis_id!r}", param="analysis_id")
