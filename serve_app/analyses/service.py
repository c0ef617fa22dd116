"""What people do with analyses: ask for one, look at it, stop it, have its failed clips done again, remove it."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from obstore.store import ObjectStore

from deployments.contracts import ModelInfo
from deployments.errors import AnalysisConflict, NotFound
from pipelines import store as objects
from serve_app.analyses.followed import Followed, View, missing
from serve_app.analyses.journal import Event
from serve_app.analyses.ledger import AnalysisLedger, Round
from serve_app.analyses.submission import MAX_QUEUED, Asked, Submissions
from serve_app.analyses.watch import Watch
from serve_app.files import Files
from serve_app.principal import Principal
from serve_app.to_the_end import to_the_end

logger = logging.getLogger("ray.serve.vidray.gateway")

_READS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Page:
    """Some of an owner's analyses, and whether more follow."""

    views: list[View]
    has_more: bool


class Analyses:
    """Every owner's analyses in one store. `models` can be asked; `nudge` tells the runner of new work."""

    def __init__(
        self,
        store: ObjectStore,
        files: Files,
        models: Mapping[str, ModelInfo],
        nudge: Callable[[], Awaitable[None]],
        max_queued: int = MAX_QUEUED,
    ) -> None:
        self._store = store
        self._submissions = Submissions(store, files, models, nudge, max_queued)
        self._nudge = nudge
        self._watch = Watch()
        self._followed = Followed(store)

    async def submit(self, principal: Principal, asked: Asked) -> View:
        """Accept an analysis; it stands when this returns, and runs when its turn comes.

        Raises NotFound (the file), UnknownModel, InvalidOption, AnalysisConflict (the key was used for something else),
        Overloaded, StorageFull, StorageFailed.
        """
        request, is_new = await to_the_end(self._submissions.submit(principal, asked))
        return self._followed.begin(request) if is_new else await self.get(principal, request.id)

    @property
    def submitted(self) -> int:
        """Analyses accepted here since the start; one that a key names again is none."""
        return self._submissions.accepted

    def model(self, name: str) -> ModelInfo:
        """Return what is known of a model that can be asked. Raises UnknownModel."""
        return self._submissions.model(name)

    async def get(self, principal: Principal, analysis_id: str) -> View:
        """Return the owner's analysis. Raises NotFound."""
        return await self._followed.look(principal.owner, analysis_id)

    async def result(self, principal: Principal, analysis_id: str) -> dict[str, Any]:
        """Return how the analysis ended. Raises NotFound, AnalysisConflict while it is not done."""
        return await self._result(principal, await self.get(principal, analysis_id))

    async def _result(self, principal: Principal, view: View) -> dict[str, Any]:
        progress, analysis_id = view.progress, view.request.id
        if not progress.done:
            raise AnalysisConflict(f"expected an analysis that is done, got one that is {progress.state}")
        result = await self._ledger(principal, analysis_id).result(progress.round, progress.attempt)
        if result is None:
            raise missing(analysis_id)  # it is being deleted
        return result

    async def page(self, principal: Principal, *, after: str | None, limit: int) -> Page:
        """Return at most `limit` of the owner's analyses, the newest first, those older than the id `after`."""
        ids = await objects.folders_below(self._store, f"owners/{principal.owner}/analyses")
        wanted = sorted((one for one in ids if after is None or one < after), reverse=True)
        views: list[View] = []
        # A folder may hold nothing any more. One more than asked for tells whether more follow.
        while wanted and len(views) <= limit:
            most = min(_READS_AT_ONCE, limit + 1 - len(views))
            some = await asyncio.gather(*(self._find(principal, one) for one in wanted[:most]))
            views += [view for view in some if view is not None]
            wanted = wanted[most:]
        return Page(views[:limit], len(views) > limit)

    async def _find(self, principal: Principal, analysis_id: str) -> View | None:
        try:
            return await self.get(principal, analysis_id)
        except NotFound:
            return None  # deleted meanwhile, or not wholly accepted yet
        except ValueError as error:
            # One whose objects are damaged hides no other one.
            logger.error("analysis cannot be read", exc_info=error, extra={"analysis_id": analysis_id})
            return None

    async def clips(
        self, principal: Principal, analysis_id: str, *, after: int, limit: int
    ) -> tuple[list[Event], bool]:
        """Return the outcomes so far, in the order in which they came, behind the event `after`; and if more follow."""
        view = await self.get(principal, analysis_id)
        clips: list[Event] = []
        async for events in self._ledger(principal, analysis_id).journal.between(after, view.progress.last_id):
            clips += [event for event in events if event.type == "clip"]
            if len(clips) > limit:
                break
        return clips[:limit], len(clips) > limit

    async def events(self, principal: Principal, analysis_id: str, *, after: int) -> AsyncIterator[list[Event]]:
        """Yield the events behind `after` as they come, until the analysis is done; none behind its end.

        An `after` that is no event yet stands for the last one. Raises NotFound, StorageFailed.
        """
        progress = (await self.get(principal, analysis_id)).progress
        if progress.done and after >= progress.last_id:
            return
        journal, last_id = self._ledger(principal, analysis_id).journal, progress.last_id
        async with aclosing(self._watch.events(analysis_id, journal, min(after, last_id), last_id)) as watched:
            async for events in watched:
                yield events

    @property
    def watchers(self) -> int:
        """How many watch an analysis here and wait for what comes next."""
        return self._watch.watchers

    async def cancel(self, principal: Principal, analysis_id: str) -> View:
        """Ask for the end; one that is done stays as it is. Raises NotFound."""
        view = await self.get(principal, analysis_id)
        if not view.progress.done:
            await to_the_end(self._stop(principal, view))
        return view

    async def _stop(self, principal: Principal, view: View) -> None:
        await self._ledger(principal, view.request.id).ask_cancel(view.progress.round)
        await self._nudge()

    async def retry(self, principal: Principal, analysis_id: str) -> View:
        """Have failed clips done again; one that is queued stays so, for whoever asks twice.

        Raises NotFound, AnalysisConflict while it is running or where no clip failed.
        """
        view = await self.get(principal, analysis_id)
        if view.progress.state == "queued":
            await to_the_end(self._requeue(principal, analysis_id, view.progress.round))
        else:
            result = await self._result(principal, view)
            failed = [clip["index"] for clip in result["clips"] if "error" in clip]
            if not failed:
                raise AnalysisConflict("expected an analysis with failed clips, got one with none")
            await to_the_end(self._reopen(principal, view, len(result["clips"]) - len(failed), failed))
        return await self.get(principal, analysis_id)

    async def _requeue(self, principal: Principal, analysis_id: str, number: int) -> None:
        await self._ledger(principal, analysis_id).enqueue(number)
        await self._nudge()

    async def _reopen(self, principal: Principal, view: View, clips_done: int, failed: list[int]) -> None:
        """Open the next round, or finish what another began who opened it."""
        progress = view.progress
        number = progress.round + 1
        told = {
            "state": "queued",
            "round": number,
            "attempt": progress.attempt,
            "clips_total": progress.clips_total,
            "clips_done": clips_done,
            "clips_failed": 0,
        }
        ledger = self._ledger(principal, view.request.id)
        again = Round(failed, Event(progress.last_id + 1, "progress", time.time(), told))
        again = await ledger.open_round(number, again)
        # Once it is queued, a runner tells what is not told: the event is in the round's record.
        await ledger.enqueue(number)
        await ledger.journal.append([again.opened])
        await self._nudge()

    async def delete(self, principal: Principal, analysis_id: str) -> None:
        """Remove an analysis that is done or was given up.

        Its captions stay in the cache until neither the video's file nor another analysis of the video is there.

        Raises NotFound, AnalysisConflict.
        """
        ledger = self._ledger(principal, analysis_id)
        try:
            progress = (await self.get(principal, analysis_id)).progress
        except ValueError as error:
            # Nobody can say where one stands whose journal is damaged, and nobody can bring it to an end.
            logger.warning("analysis cannot be read", exc_info=error, extra={"analysis_id": analysis_id})
        else:
            if not progress.done and await ledger.is_queued(progress.round):
                raise AnalysisConflict(
                    f"expected an analysis that is done, got one that is {progress.state}: cancel it first"
                )
        self._followed.forget(analysis_id)
        await to_the_end(ledger.delete())

    def _ledger(self, principal: Principal, analysis_id: str) -> AnalysisLedger:
        return AnalysisLedger(self._store, principal.owner, analysis_id)
