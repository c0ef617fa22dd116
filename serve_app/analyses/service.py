"""What people do with analyses: ask for one, look at it, stop it, have its failed clips done again, remove it."""

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from obstore.store import ObjectStore

from deployments.contracts import ModelInfo
from deployments.errors import AnalysisConflict, NotFound, UnknownModel
from pipelines import store as objects
from pipelines.ids import is_id, new_id
from pipelines.plan import plan_clips
from serve_app.analyses.journal import Event
from serve_app.analyses.ledger import AnalysisLedger
from serve_app.analyses.progress import Progress
from serve_app.analyses.request import AnalysisOptions, AnalysisRequest
from serve_app.analyses.watch import Watch
from serve_app.files import Files
from serve_app.principal import Principal

_FOLLOWED = 2048
"""Analyses whose progress a gateway remembers, so that a look at one reads its new events only."""
_READS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for; the same `key` asks for the same analysis again, however often."""

    file_id: str
    options: AnalysisOptions
    metadata: dict[str, Any]
    key: str | None = None


@dataclass(frozen=True, slots=True)
class View:
    """An analysis as it stands."""

    request: AnalysisRequest
    progress: Progress
    result: dict[str, Any] | None


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
    ) -> None:
        self._store = store
        self._files = files
        self._models = models
        self._nudge = nudge
        self._watch = Watch()
        self.submitted = 0
        """Analyses accepted here since the start; one that a key names again is none."""
        self._followed: OrderedDict[str, tuple[AnalysisRequest, Progress, asyncio.Lock]] = OrderedDict()

    async def submit(self, principal: Principal, asked: Asked) -> View:
        """Accept an analysis; it stands when this returns, and runs when its turn comes.

        Raises NotFound (the file), UnknownModel, InvalidOption, AnalysisConflict (the key was used for something else),
        StorageFull, StorageFailed.
        """
        self._files.require_room(0)
        file = await self._files.get(principal, asked.file_id)
        model = self.model(asked.options.model)
        model.frame_spec.target_size(file.video.width, file.video.height)
        plan_clips(file.video, asked.options.sampling, max_frames=model.max_frames)
        request = AnalysisRequest(
            id=await self._id(principal, asked),
            owner=principal.owner,
            created_at=time.time(),
            file_id=file.id,
            filename=file.filename,
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            source=file.source,
            video=file.video,
            model_revision=model.revision,
            options=asked.options,
            metadata=asked.metadata,
        )
        self.submitted += await self._ledger(principal, request.id).submit(request) is request
        await self._nudge()
        return await self.get(principal, request.id)

    def model(self, name: str) -> ModelInfo:
        """Return what is known of a model that can be asked. Raises UnknownModel."""
        model = self._models.get(name)
        if model is None:
            known = ", ".join(sorted(self._models))
            raise UnknownModel(f"expected one of the models {known}, got {name!r}", param="model")
        return model

    async def _id(self, principal: Principal, asked: Asked) -> str:
        """Return a new id, or the one that was given out for the client's key."""
        if asked.key is None:
            return new_id("ana")
        what = json.dumps([asked.file_id, asked.options.model_dump(mode="json"), asked.metadata], sort_keys=True)
        record = {"analysis_id": new_id("ana"), "asked": hashlib.sha256(what.encode()).hexdigest()}
        # The key is a client's text, which may be anything: its hash is fit for a path.
        path = f"owners/{principal.owner}/keys/{hashlib.sha256(asked.key.encode()).hexdigest()}.json"
        if not await objects.create(self._store, path, json.dumps(record).encode()):
            stands = json.loads(await objects.get(self._store, path))
            if stands["asked"] != record["asked"]:
                raise AnalysisConflict("expected the request that this Idempotency-Key came with first, got another")
            record = stands
        return str(record["analysis_id"])

    async def get(self, principal: Principal, analysis_id: str) -> View:
        """Return the owner's analysis. Raises NotFound."""
        request, progress, lock = await self._followed_one(principal, analysis_id)
        ledger = self._ledger(principal, analysis_id)
        async with lock:
            while events := await ledger.journal.after(progress.last_id):
                progress.take(events)
        result = await ledger.result(progress.round) if progress.done else None
        return View(request, progress, result)

    async def _followed_one(
        self, principal: Principal, analysis_id: str
    ) -> tuple[AnalysisRequest, Progress, asyncio.Lock]:
        known = self._followed.get(analysis_id)
        if known is None:
            ledger = self._ledger(principal, analysis_id)
            request = await ledger.request() if is_id(analysis_id, "ana") else None
            if request is None:
                raise _missing(analysis_id)
            progress = Progress()
            progress.take(await ledger.journal.all_after(0))
            known = self._followed.setdefault(analysis_id, (request, progress, asyncio.Lock()))
        self._followed.move_to_end(analysis_id)
        while len(self._followed) > _FOLLOWED:
            self._followed.popitem(last=False)
        if known[0].owner != principal.owner:
            raise _missing(analysis_id)
        return known

    async def page(self, principal: Principal, *, after: str | None, limit: int) -> Page:
        """Return at most `limit` of the owner's analyses, the newest first, those older than the id `after`."""
        ids = await objects.folders_below(self._store, f"owners/{principal.owner}/analyses")
        wanted = sorted((one for one in ids if after is None or one < after), reverse=True)
        views: list[View] = []
        for at in range(0, min(len(wanted), limit), _READS_AT_ONCE):
            some = (self._find(principal, one) for one in wanted[at : min(at + _READS_AT_ONCE, limit)])
            views += [view for view in await asyncio.gather(*some) if view is not None]
        return Page(views, len(wanted) > limit)

    async def _find(self, principal: Principal, analysis_id: str) -> View | None:
        try:
            return await self.get(principal, analysis_id)
        except NotFound:
            return None  # deleted meanwhile, or not wholly accepted yet

    async def clips(
        self, principal: Principal, analysis_id: str, *, after: int, limit: int
    ) -> tuple[list[Event], bool]:
        """Return the outcomes so far, in the order in which they came, behind the event `after`; and if more follow."""
        await self.get(principal, analysis_id)
        events = await self._ledger(principal, analysis_id).journal.all_after(after)
        clips = [event for event in events if event.type == "clip"]
        return clips[:limit], len(clips) > limit

    async def events(self, principal: Principal, analysis_id: str, *, after: int) -> AsyncIterator[list[Event]]:
        """Yield the events behind `after` as they come, until the analysis is done. Raises NotFound."""
        await self.get(principal, analysis_id)
        journal = self._ledger(principal, analysis_id).journal
        async for events in self._watch.events(analysis_id, journal, after):
            yield events

    @property
    def watchers(self) -> int:
        """How many watch an analysis here and wait for what comes next."""
        return self._watch.watchers

    async def cancel(self, principal: Principal, analysis_id: str) -> View:
        """Ask for the end; one that is done stays as it is. Raises NotFound."""
        view = await self.get(principal, analysis_id)
        if not view.progress.done:
            await self._ledger(principal, analysis_id).ask_cancel(view.progress.round)
            await self._nudge()
        return view

    async def retry(self, principal: Principal, analysis_id: str) -> View:
        """Have failed clips done again. Raises NotFound, AnalysisConflict while it is not done or none failed."""
        view = await self.get(principal, analysis_id)
        if view.result is None:
            raise AnalysisConflict(f"expected an analysis that is done, got one that is {view.progress.state}")
        failed = [clip["index"] for clip in view.result["clips"] if "error" in clip]
        if not failed:
            raise AnalysisConflict("expected an analysis with failed clips, got one with none")
        ledger, progress = self._ledger(principal, analysis_id), view.progress
        number = progress.round + 1
        await ledger.open_round(number, failed)
        await ledger.journal.append(
            [
                Event(
                    progress.last_id + 1,
                    "progress",
                    time.time(),
                    {
                        "state": "queued",
                        "round": number,
                        "attempt": progress.attempt,
                        "clips_total": progress.clips_total,
                        "clips_done": len(view.result["clips"]) - len(failed),
                        "clips_failed": 0,
                    },
                )
            ]
        )
        await ledger.enqueue(number)
        await self._nudge()
        return await self.get(principal, analysis_id)

    async def delete(self, principal: Principal, analysis_id: str) -> None:
        """Remove a done analysis; the captions stay in the cache. Raises NotFound, AnalysisConflict."""
        view = await self.get(principal, analysis_id)
        if not view.progress.done:
            state = view.progress.state
            raise AnalysisConflict(f"expected an analysis that is done, got one that is {state}: cancel it first")
        await self._ledger(principal, analysis_id).delete()
        self._followed.pop(analysis_id, None)

    def _ledger(self, principal: Principal, analysis_id: str) -> AnalysisLedger:
        return AnalysisLedger(self._store, principal.owner, analysis_id)


def _missing(analysis_id: str) -> NotFound:
    return NotFound(f"expected one of your analyses, got {analysis_id!r}", param="analysis_id")
