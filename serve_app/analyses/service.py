"""What people do with analyses: ask for one, look at it, stop it, have its failed clips done again, remove it."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from obstore.store import ObjectStore

from deployments.contracts import ModelInfo
from deployments.errors import AnalysisConflict, NotFound, UnknownModel
from pipelines import store as objects
from pipelines.ids import new_id
from pipelines.plan import cut_of
from serve_app.analyses.followed import Followed, View, missing
from serve_app.analyses.journal import Event
from serve_app.analyses.ledger import AnalysisLedger
from serve_app.analyses.request import AnalysisOptions, AnalysisRequest
from serve_app.analyses.watch import Watch
from serve_app.files import Files
from serve_app.principal import Principal

_READS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for; the same `key` asks for the same analysis again, however often."""

    file_id: str
    options: AnalysisOptions
    metadata: dict[str, Any]
    key: str | None = None


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
        self._followed = Followed(store)

    async def submit(self, principal: Principal, asked: Asked) -> View:
        """Accept an analysis; it stands when this returns, and runs when its turn comes.

        Raises NotFound (the file), UnknownModel, InvalidOption, AnalysisConflict (the key was used for something else),
        StorageFull, StorageFailed.
        """
        self._files.require_room(0)
        file = await self._files.get(principal, asked.file_id)
        model = self.model(asked.options.model)
        model.frame_spec.target_size(file.video.width, file.video.height)
        cut_of(file.video, asked.options.sampling, max_frames=model.max_frames)
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
        return await self._followed.look(principal.owner, analysis_id)

    async def result(self, principal: Principal, analysis_id: str) -> dict[str, Any]:
        """Return how the analysis ended. Raises NotFound, AnalysisConflict while it is not done."""
        progress = (await self.get(principal, analysis_id)).progress
        if not progress.done:
            raise AnalysisConflict(f"expected an analysis that is done, got one that is {progress.state}")
        result = await self._ledger(principal, analysis_id).result(progress.round)
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
            await self._ledger(principal, analysis_id).ask_cancel(view.progress.round)
            await self._nudge()
        return view

    async def retry(self, principal: Principal, analysis_id: str) -> View:
        """Have failed clips done again. Raises NotFound, AnalysisConflict while it is not done or none failed."""
        view = await self.get(principal, analysis_id)
        result = await self.result(principal, analysis_id)
        failed = [clip["index"] for clip in result["clips"] if "error" in clip]
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
                        "clips_done": len(result["clips"]) - len(failed),
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
        self._followed.forget(analysis_id)

    def _ledger(self, principal: Principal, analysis_id: str) -> AnalysisLedger:
        return AnalysisLedger(self._store, principal.owner, analysis_id)
