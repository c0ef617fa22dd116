"""One attempt at one analysis: take up what is recorded, describe the rest, record every outcome, tell how it ended."""

import asyncio
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from obstore.store import ObjectStore

from deployments.contracts import ModelInfo
from deployments.errors import AppError, Cancelled, DeadlineExceeded, EngineFailed, ModelLoadFailed, SourceNotFound
from pipelines import store as objects
from pipelines.chain import split_runs
from pipelines.describe import Describer
from pipelines.drive import drive
from pipelines.outcome import ClipError, ClipOutcome
from pipelines.plan import plan_clips
from pipelines.results import build_result, status_of
from pipelines.source import Source, stamp_of
from pipelines.video import ClipPlan
from serve_app.analyses.cache import CaptionCache
from serve_app.analyses.journal import Event
from serve_app.analyses.ledger import AnalysisLedger, Claim
from serve_app.analyses.progress import Progress
from serve_app.analyses.request import AnalysisRequest
from serve_app.analyses.scribe import Scribe, Told
from serve_app.analyses.tally import Tally

_MOST_BARREN_ATTEMPTS = 5
_STOP_POLL_S = 0.5
_CACHE_READS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Means:
    """What a run works with; `in_flight` and `tally` are shared by all runs of a runner."""

    store: ObjectStore
    model: ModelInfo
    describer: Describer
    in_flight: asyncio.Semaphore
    decode_cpus: float
    tally: Tally


class Run:
    """The attempt that `claim` stands for."""

    def __init__(self, ledger: AnalysisLedger, claim: Claim, request: AnalysisRequest, means: Means) -> None:
        self._ledger = ledger
        self._claim = claim
        self._request = request
        self._means = means
        self._cache = CaptionCache(means.store, request, means.model)
        self._begun_s = time.perf_counter()
        self._round = 0
        self._first_caption_due = False
        self._outcomes: dict[int, ClipOutcome] = {}
        """Those that stand, over all rounds."""
        self._recording: set[asyncio.Task[None]] = set()

    async def work(self) -> None:
        """Bring the analysis's present round to its end.

        Raises Deposed when another runner took over, StorageFailed when the store does not answer: try again later.
        """
        rounds = await self._ledger.rounds()
        self._round = len(rounds)
        progress = Progress()
        events = await self._ledger.journal.all_after(0)
        progress.take(events)
        scribe = Scribe(self._ledger.journal, progress.last_id)
        result = await self._ledger.result(self._round)
        if result is None:
            result = await self._describe(rounds, events, progress, scribe)
            await self._ledger.finish(self._round, result)
        # An earlier attempt may have died between the result and these two.
        if not (progress.done and progress.round == self._round):
            await scribe.tell(
                "done", {"round": self._round, "status": result["status"], "coverage": result["coverage"]}
            )
            self._means.tally.finished(result["status"])
        await self._ledger.dequeue(self._round)

    async def _describe(
        self, rounds: list[list[int]], events: list[Event], progress: Progress, scribe: Scribe
    ) -> dict[str, Any]:
        """Describe what the round still lacks and return its result."""
        request = self._request
        clips = plan_clips(request.video, request.options.sampling, max_frames=self._means.model.max_frames)
        again = set(rounds[-1]) if rounds else set(range(len(clips)))
        for number in range(self._round):
            self._outcomes |= await self._ledger.outcomes(number)
        self._outcomes = {index: one for index, one in self._outcomes.items() if index not in again}
        recorded = await self._ledger.outcomes(self._round)
        told = {event.data["index"] for event in events if event.type == "clip" and event.data["round"] == self._round}
        self._outcomes |= {index: outcome for index, outcome in recorded.items() if index in told}
        self._first_caption_due = self._round == 0 and progress.first_caption_at is None
        failed = sum(outcome.error is not None for outcome in self._outcomes.values())
        # The first event of an attempt is its fence: a runner that was deposed cannot write behind it.
        await scribe.tell(
            "progress",
            {
                "state": "running",
                "round": self._round,
                "attempt": self._claim.attempt,
                "clips_total": len(clips),
                "clips_done": len(self._outcomes),
                "clips_failed": failed,
            },
        )
        for index in sorted(recorded.keys() - told):
            await self._tell_clip(scribe, recorded[index])
        pending = [clip for clip in clips if clip.index not in self._outcomes]
        stopped: AppError | None = None
        model = self._means.model
        if request.model_revision != model.revision:
            # Captions of two models in one timeline would be no answer to what was asked.
            stopped = ModelLoadFailed(f"expected the model {model.name} as it was when asked, got another revision")
        elif progress.barren_attempts >= _MOST_BARREN_ATTEMPTS:
            stopped = EngineFailed(f"expected a clip's outcome, got {progress.barren_attempts} attempts without one")
        elif pending:
            pending = await self._reuse(pending, scribe)
            stopped = await self._until_stopped(pending, scribe, progress)
        return self._result(clips, stopped)

    async def _reuse(self, pending: list[ClipPlan], scribe: Scribe) -> list[ClipPlan]:
        """Record the captions that were made before and return the clips that have none."""
        there = await self._cache.paths()
        known = [clip for clip in pending if self._cache.path(clip) in there]
        for at in range(0, len(known), _CACHE_READS_AT_ONCE):
            some = await asyncio.gather(*map(self._cache.find, known[at : at + _CACHE_READS_AT_ONCE]))
            await asyncio.gather(*(self._record(scribe, outcome) for outcome in some if outcome is not None))
        return [clip for clip in pending if clip.index not in self._outcomes]

    async def _until_stopped(self, pending: list[ClipPlan], scribe: Scribe, progress: Progress) -> AppError | None:
        """Describe the clips; return what ended that early, or None."""
        driving = asyncio.create_task(self._drive(pending, scribe))
        stopping = asyncio.create_task(self._stop_asked(progress))
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

    async def _stop_asked(self, progress: Progress) -> AppError:
        """Return once the analysis is to stop."""
        deadline_s = self._request.options.deadline_s
        give_up_s = None if deadline_s is None else (progress.started_at or time.time()) + deadline_s
        while True:
            if await self._ledger.cancel_asked(self._round):
                return Cancelled("expected a caption, got a cancelled analysis")
            if give_up_s is not None and time.time() >= give_up_s:
                return DeadlineExceeded(f"expected a caption within {deadline_s:g} s of the start, got none")
            await asyncio.sleep(_STOP_POLL_S)

    async def _drive(self, pending: list[ClipPlan], scribe: Scribe) -> None:
        if not pending:
            return
        request, means = self._request, self._means
        video = request.video
        size = means.model.frame_spec.target_size(video.width, video.height)
        by_index = {clip.index: clip for clip in pending}

        async def record(_: str, outcome: ClipOutcome) -> None:
            recording = asyncio.create_task(self._record_new(scribe, by_index[outcome.index], outcome))
            self._recording.add(recording)
            recording.add_done_callback(self._recording.discard)
            # What is described is recorded, also when the analysis is stopped in this very moment.
            await asyncio.shield(recording)

        async with objects.local_file(means.store, request.source) as path:
            runs = split_runs(request.id, self._source(path), pending, size, request.options.decoder)
            await drive(
                runs,
                means.describer,
                {request.id: request.options.describe_options()},
                record,
                in_flight=means.in_flight,
                decode_cpus=means.decode_cpus,
            )

    def _source(self, path: Path) -> Source:
        request = self._request
        try:
            stamp = stamp_of(str(path))
        except OSError as error:
            raise SourceNotFound(f"expected the uploaded video, got none any more: {request.filename}") from error
        return Source(str(path), request.filename, request.sha256, request.size_bytes, request.video, stamp)

    async def _record_new(self, scribe: Scribe, clip: ClipPlan, outcome: ClipOutcome) -> None:
        await self._record(scribe, outcome)
        if outcome.error is None:
            await self._cache.keep(clip, outcome)

    async def _record(self, scribe: Scribe, outcome: ClipOutcome) -> None:
        await self._tell_clip(scribe, await self._ledger.commit(self._round, outcome))

    async def _tell_clip(self, scribe: Scribe, outcome: ClipOutcome) -> None:
        self._outcomes[outcome.index] = outcome
        told: list[Told] = [("clip", outcome.as_json() | {"round": self._round})]
        if outcome.events_error is not None:
            # In one object with the clip's own event, by which a later attempt knows that both are told.
            where = {"round": self._round, "index": outcome.index}
            told.append(("warning", where | asdict(outcome.events_error)))
        await scribe.tell_together(*told)
        self._means.tally.clip(self._means.model.name, outcome)
        if self._first_caption_due and outcome.error is None:
            self._first_caption_due = False
            self._means.tally.first_caption(time.time() - self._request.created_at)

    def _result(self, clips: list[ClipPlan], stopped: AppError | None) -> dict[str, Any]:
        """Return the result; clips that were not reached are rows with the reason."""
        reason = None if stopped is None else ClipError.of(stopped)
        outcomes = [
            self._outcomes.get(clip.index)
            or ClipOutcome(
                clip.index,
                clip.start_s,
                clip.end_s,
                len(clip.sample_times_s),
                error=reason or ClipError("internal_error", "expected an outcome, got none"),
            )
            for clip in clips
        ]
        request = self._request
        source = Source("", request.filename, request.sha256, request.size_bytes, request.video, "")
        result = build_result(
            analysis_id=request.id,
            model=asdict(self._means.model),
            source=source,
            outcomes=outcomes,
            reused=sum(outcome.reused for outcome in outcomes),
            timings={"attempt_s": round(time.perf_counter() - self._begun_s, 6)},
            event_kinds=request.options.events,
            summary=request.options.summary,
        )
        status = "cancelled" if isinstance(stopped, Cancelled) else status_of(outcomes)
        return result | {"status": status, "round": self._round, "attempts": self._claim.attempt}
