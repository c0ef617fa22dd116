"""Which analyses a runner may claim: those that nobody holds, and those whose holder is gone.

An analysis is free when it has no claim, or the last one was for an earlier round, was given free by its runner, or is
our own and we are not at it. Else that runner may be dead, and is taken to be

* at once, when Ray says that its node is dead;
* when its beat has not changed for `lease_s` and its node is alive: the runner's process died, or it hangs;
* when its beat has not changed for two and a half beats and its node is none of this Ray cluster's: after a restart all
  nodes have new ids, and work is to go on soon; but the store may also serve a second cluster, which is alive.

Beats are waited for by our own monotonic clock, so that no two machines' clocks are compared. Whoever is taken for dead
and lives is harmless: the journal is the fence.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from serve_app.analyses.ledger import AnalysisLedger, Claim, released

logger = logging.getLogger("ray.serve.vidray.runner")

_BEATS_OF_STRANGERS = 2.5


@dataclass(frozen=True, slots=True)
class Node:
    """Where a runner lives: its Ray node's id, and which nodes Ray knows, each alive or dead; asking it may block."""

    id: str
    known: Callable[[], dict[str, bool]]


@dataclass(frozen=True, slots=True)
class Free:
    """The analysis may be claimed, as attempt `attempt`; `taken_over` where its runner had not given it free."""

    attempt: int
    taken_over: bool


class Leases:
    """What the runner `runner` has seen of the claims of others."""

    def __init__(self, runner: str, node: Node, *, lease_s: float, beat_s: float) -> None:
        self._runner = runner
        self._node = node
        self._lease_s = lease_s
        self._strangers_s = _BEATS_OF_STRANGERS * beat_s
        self._alive: dict[str, bool] | None = None
        self._seen: dict[str, tuple[tuple[int, bytes | None], float]] = {}

    async def begin(self, analysis_ids: Collection[str]) -> None:
        """Begin a look at these analyses: ask once which nodes live, and forget all other analyses."""
        self._seen = {one: seen for one, seen in self._seen.items() if one in analysis_ids}
        try:
            self._alive = await asyncio.to_thread(self._node.known)
        except Exception as error:
            # Whatever Ray raises: claims go by their beats and by what was known before, and the next look asks again.
            logger.warning("nodes cannot be listed", exc_info=error)

    async def look(self, ledger: AnalysisLedger, number: int) -> Free | None:
        """Say whether the analysis's round may be claimed. Raises StorageFailed."""
        last = await ledger.last_claim()
        if last is None:
            return Free(1, taken_over=False)
        if last.round < number or last.runner == self._runner:
            return Free(last.attempt + 1, taken_over=False)
        beat = await ledger.last_beat()
        given_free = beat == released(last)
        if given_free or self._is_lost(ledger.analysis_id, last, beat):
            return Free(last.attempt + 1, taken_over=not given_free)
        return None

    def _is_lost(self, analysis_id: str, last: Claim, beat: bytes | None) -> bool:
        alive = True if self._alive is None else self._alive.get(last.node)
        if alive is False:
            return True
        shown, now_s = (last.attempt, beat), time.monotonic()
        seen, since_s = self._seen.get(analysis_id, (None, now_s))
        if seen != shown:
            self._seen[analysis_id] = (shown, now_s)
            return False
        return now_s - since_s >= (self._lease_s if alive else self._strangers_s)
