"""Describe an analysis's clips: from the cache what was described before, the rest by the model, until stopped."""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field

from obstore.store import ObjectStore

from deployments.contracts import LOCAL, ModelInfo
from deployments.errors import AppError, Cancelled, DeadlineExceeded, ModelLoadFailed, SourceNotFound
from pipelines.chain import split_runs
from pipelines.describe import Clips, Describer
from pipelines.drive import drive
from pipelines.outcome import ClipOutcome, DecodedClip
from pipelines.video import ClipPlan
from serve_app.analyses.cache import CaptionCache
from serve_app.analyses.cloud import Cloud
from serve_app.analyses.record import Record
from serve_app.analyses.request import AnalysisRequest
from serve_app.analyses.stories import Stories
from serve_app.analyses.tally import Tally
from serve_app.analyses.turns import IsOver, Turns
from serve_app.analyses.video_source import source_of
from serve_app.pace import Pace

_CACHE_READS_AT_ONCE = 32
_MOST_CLIPS_A_TURN = 4096
"""Each turn has its clips put into Ray anew: a long video's are not put there all again and again."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a runner's runs share; of `in_flight`, each clip between decoder and record takes one."""

    store: ObjectStore
    in_flight: asyncio.Semaphore
    turns: Turns
    decode_cpus: float
    tally: Tally
    stories: Stories | None = None
    cloud: Cloud | None = None
    paces: dict[str, Pace] = field(default_factory=dict)
    """Of each model's last attempt."""


@dataclass(frozen=True, slots=True)
class Stop:
    """When to stop early: once `cancelled` is set, or at `give_up_s` (seconds since 1970, None: never)."""

    cancelled: asyncio.Event
    give_up_s: float | None

    async def asked(self) -> AppError:
        """Return once it is time."""
        wait_s = None if self.give_up_s is None else max(0.0, self.give_up_s - time.time())
        try:
            async with asyncio.timeout(wait_s):
                await self.cancelled.wait()
        except TimeoutError:
            return DeadlineExceeded("expected a caption before the analysis's deadline, got none")
        return Cancelled("expected a caption, got a cancelled analysis")


class Describing:
    """One attempt's clips, described by the model `info` behind `describer`.

    `in_flight` hears 1 when a clip is decoded and -1 when its outcome is recorded; `on_outcome` hears that, too.
    `asked` hears 1 when a model is asked for a clip and -1 when that is over.
    """

    def __init__(
        self,
        request: AnalysisRequest,
        means: Means,
        info: ModelInfo,
        describer: Describer,
        record: Record,
        in_flight: Callable[[int], None],
        asked: Callable[[int], None],
        on_outcome: Callable[[ClipOutcome], None],
    ) -> None:
        self._request = request
        self._means = means
        self._info = info
        self._clips = Clips(describer) if means.cloud is None else means.cloud.ways(request, describer)
        self._record = record
        self._in_flight = in_flight
        self._asked = asked
        self._on_outcome = on_outcome
        self._cache = CaptionCache(means.store, request, info)
        self._recording: set[asyncio.Task[None]] = set()
        self._load = None if means.cloud is None else means.cloud.load(request.options.model)

    async def keep(self, clips: Iterable[ClipPlan], there: set[str]) -> None:
        """Keep the captions of clips that an attempt described which died before it kept them."""
        described = ((clip, self._record.outcomes[clip.index]) for clip in clips)
        for clip, outcome in described:
            if outcome.served_by == LOCAL and not outcome.reused and self._cache.path(clip) not in there:
                await self._cache.keep(clip, outcome)

    async def reuse(self, pending: list[ClipPlan], there: set[str]) -> None:
        """Record the captions that were made before."""
        known = [clip for clip in pending if self._cache.path(clip) in there]
        for at in range(0, len(known), _CACHE_READS_AT_ONCE):
            some = await asyncio.gather(*map(self._cache.find, known[at : at + _CACHE_READS_AT_ONCE]))
            await asyncio.gather(*(self._record.commit(outcome) for outcome in some if outcome is not None))

    async def kept(self) -> set[str]:
        """Return what the cache has of the video."""
        return await self._cache.paths()

    async def until_stopped(self, pending: list[ClipPlan], stop: Stop) -> AppError | None:
        """Describe the clips; return what ended that early, or None. Raises Deposed, StorageFailed, EngineFailed."""
        queued = nullcontext(lambda: None) if self._load is None else self._load.waiting(len(pending))
        with queued as has_outcome:
            return await self._until_stopped(pending, stop, has_outcome)

    async def _until_stopped(
        self, pending: list[ClipPlan], stop: Stop, has_outcome: Callable[[], None]
    ) -> AppError | None:
        driving = asyncio.create_task(self._drive(pending, has_outcome))
        stopping = asyncio.create_task(stop.asked())
        stopped: AppError | None = None
        try:
            await asyncio.wait({driving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if driving.done():
                driving.result()
            else:
                stopped = stopping.result()
        except (ModelLoadFailed, SourceNotFound) as fatal:
            stopped = fatal
        finally:
            for task in (driving, stopping):
                task.cancel()
            await asyncio.gather(driving, stopping, return_exceptions=True)
            # A result must not say more than the events: what is being recorded is recorded, or the attempt has failed.
            await asyncio.gather(*self._recording)
        return stopped

    async def _drive(self, pending: list[ClipPlan], has_outcome: Callable[[], None]) -> None:
        while pending := [clip for clip in pending if clip.index not in self._record.outcomes]:
            async with self._means.turns.turn() as is_over:
                some = pending[:_MOST_CLIPS_A_TURN]
                await self._drive_some(some, is_over, has_outcome)
            if not any(clip.index in self._record.outcomes for clip in some):
                return  # each turn brings one clip at least: a decoder that gives none would be asked for ever

    async def _drive_some(self, pending: list[ClipPlan], is_over: IsOver, has_outcome: Callable[[], None]) -> None:
        request, means = self._request, self._means
        size = self._info.frame_spec.target_size(request.video.width, request.video.height)
        by_index = {clip.index: clip for clip in pending}

        async def record(_: str, outcome: ClipOutcome) -> None:
            recording = asyncio.create_task(self._record_new(by_index[outcome.index], outcome))
            self._recording.add(recording)
            recording.add_done_callback(self._recording.discard)
            # What is described is recorded, also when the analysis is stopped in this very moment.
            await asyncio.shield(recording)
            has_outcome()

        options = request.options.describe_options()

        async def describe(clip: DecodedClip) -> ClipOutcome:
            self._asked(1)
            try:
                return await self._clips.describe(clip, options)
            finally:
                self._asked(-1)

        await drive(
            split_runs(request.id, source_of(request, means.store), pending, size, request.options.decoder),
            describe,
            record,
            in_flight=means.in_flight,
            decode_cpus=means.decode_cpus,
            on_decoded=lambda _: self._in_flight(1),
            is_over=is_over,
        )

    async def _record_new(self, clip: ClipPlan, outcome: ClipOutcome) -> None:
        await self._record.commit(outcome)
        self._in_flight(-1)
        self._on_outcome(outcome)
        if outcome.served_by == LOCAL:  # the cache is of what this model says
            await self._cache.keep(clip, outcome)
