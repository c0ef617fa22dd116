"""One attempt at one round: take up what is recorded, describe the rest, record every outcome, tell how it ended."""

import asyncio
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import takewhile
from typing import Any

from deployments.contracts import ModelInfo
from deployments.errors import AppError, Cancelled, Deposed, EngineFailed, ModelLoadFailed, ReplicaLost, StorageFailed
from pipelines.describe import Describer
from pipelines.outcome import ClipError, ClipOutcome
from pipelines.plan import plan_clips
from pipelines.results import build_result, status_of
from pipelines.source import Source
from pipelines.video import ClipPlan
from serve_app.analyses.describing import Describing, Means, Stop
from serve_app.analyses.ledger import AnalysisLedger, Claim, Failure, Round
from serve_app.analyses.progress import Progress
from serve_app.analyses.record import Record
from serve_app.analyses.request import AnalysisRequest
from serve_app.analyses.scribe import Scribe, Told
from serve_app.pace import Stopwatch, frames_of, known_pace

logger = logging.getLogger("ray.serve.vidray.runner")

_MOST_BARREN_ATTEMPTS = 5


class Run:
    """The attempt that `claim` stands for; a `model` of None is one that is not there, and is asked nothing."""

    def __init__(
        self,
        ledger: AnalysisLedger,
        claim: Claim,
        request: AnalysisRequest,
        means: Means,
        model: tuple[ModelInfo, Describer] | None,
    ) -> None:
        self._ledger = ledger
        self._claim = claim
        self._request = request
        self._means = means
        self._model = model
        self._cancelled = asyncio.Event()
        self._outcomes: dict[int, ClipOutcome] = {}
        self._barren = 0
        """Attempts before this one that failed without a clip between them."""
        self._begun_s = time.perf_counter()
        self._stopwatch = Stopwatch(time.monotonic())
        self.in_flight = 0
        """Clips that are decoded and have no outcome that is told."""
        self.describing = 0
        """Those of them that a model has been asked for."""
        self.moved_s = time.monotonic()
        """When the work last went on, by the monotonic clock: a clip was decoded, or an outcome recorded and told."""

    def _moved(self, in_flight: int = 0) -> None:
        self.moved_s = time.monotonic()
        self.in_flight += in_flight

    def _asked(self, clips: int) -> None:
        self._moved()
        self.describing += clips

    def cancel(self) -> None:
        """Begin no clip any more, and end the round."""
        self._cancelled.set()

    async def work(self) -> None:
        """Bring the round to its end.

        Raises Deposed when another runner took over, StorageFailed when the store does not answer, ReplicaLost when Ray
        lost a node, a process or an object of the decoding: try again later.
        Another error counts against the analysis, which ends as failed when that goes on. One that cannot even be ended
        then, because its own record is damaged, is left without a place in the queue: it can be deleted.
        """
        number = self._claim.round
        # First of all: whatever is wrong with the rest, it is tried so often and no more.
        self._barren = _barren(await self._ledger.failures(number))
        try:
            await self._work()
        except (Deposed, StorageFailed, ReplicaLost):
            raise
        except Exception as error:
            code = error.code if isinstance(error, AppError) else AppError.code
            await self._ledger.record_failure(self._claim, Failure(len(self._outcomes), code, repr(error)))
            if self._barren < _MOST_BARREN_ATTEMPTS:
                raise
            fields = {"analysis_id": self._request.id, "round": number}
            logger.error("analysis cannot be ended and is left", exc_info=error, extra=fields)
        await self._ledger.dequeue(number)

    async def _work(self) -> None:
        number = self._claim.round
        rounds = (await self._ledger.rounds())[:number]
        if len(rounds) < number:
            raise ValueError(f"expected the record of round {number}, got those of {len(rounds)} rounds")
        progress, told = await self._read(rounds)
        if progress.round == number and not progress.done:
            await self._bring_to_end(rounds, progress, told)

    async def _read(self, rounds: list[Round]) -> tuple[Progress, set[int]]:
        """Return where the analysis stands, and the clips of this round whose outcome is told."""
        progress, told = Progress(), set[int]()
        async for events in self._ledger.journal.behind(0):
            progress.take(events)
            clips = (event.data for event in events if event.type == "clip")
            told |= {clip["index"] for clip in clips if clip["round"] == self._claim.round}
        if progress.round < self._claim.round:
            # Whoever opened the round died before that was told.
            await self._ledger.journal.append([rounds[-1].opened])
            progress.take([rounds[-1].opened])
        return progress, told

    async def _bring_to_end(self, rounds: list[Round], progress: Progress, told: set[int]) -> None:
        scribe = Scribe(self._ledger.journal, progress.last_id)
        # What was accepted is described, whatever the model would take today.
        sampling = self._request.options.sampling
        clips = await asyncio.to_thread(plan_clips, self._request.video, sampling, max_frames=sys.maxsize)
        record = Record(self._ledger, self._claim, self._request, scribe, self._means.tally, self._moved, len(clips))
        record.first_caption_due = self._claim.round == 0 and progress.first_caption_at is None
        self._outcomes = record.outcomes
        recorded = await self._take_up(rounds, clips, told, scribe, record)
        stopped = await self._describe(clips, recorded, progress, record)
        result = self._result(clips, record.outcomes, stopped)
        if result["summary"] is not None and stopped is None:
            result["summary"] = await self._retold(result["summary"], list(record.outcomes.values()))
        await self._ledger.finish(self._claim, result)
        named = {"round": self._claim.round, "attempt": self._claim.attempt}
        done: Told = ("done", named | {"status": result["status"], "coverage": result["coverage"]})
        if result["summary"] is None:
            await scribe.tell_together(done)
        else:
            await scribe.tell_together(("summary", named | {"partial": False} | result["summary"]), done)
        self._means.tally.finished(result["status"])

    async def _take_up(
        self, rounds: list[Round], clips: list[ClipPlan], told: set[int], scribe: Scribe, record: Record
    ) -> set[int]:
        """Tell that the attempt begins, and what the one before it did not come to; return what this round has."""
        number = self._claim.round
        for earlier in range(number):
            record.outcomes |= await self._ledger.outcomes(earlier)
        for index in rounds[-1].clips if rounds else ():
            record.outcomes.pop(index, None)
        recorded = await self._ledger.outcomes(number)
        record.outcomes |= {index: outcome for index, outcome in recorded.items() if index in told}
        # The first event of an attempt is its fence: a runner that was deposed cannot write behind it.
        await scribe.tell(
            "progress",
            {
                "state": "running",
                "round": number,
                "attempt": self._claim.attempt,
                "clips_total": len(clips),
                "clips_done": len(record.outcomes),
                "clips_failed": sum(outcome.error is not None for outcome in record.outcomes.values()),
                "expected": self._expected(clips),
            },
        )
        for index in sorted(recorded.keys() - told):
            await record.tell(recorded[index])
        return set(recorded)

    def _expected(self, clips: list[ClipPlan]) -> dict[str, float] | None:
        """Return how long the attempt takes to begin, and then for a clip, if it is like the model's last one."""
        if self._model is None:
            return None
        pace = self._means.paces.get(self._model[0].name) or known_pace(self._model[0], own_ray=False)
        if pace is None:
            return None
        clip_s = pace.frame_s * frames_of(clips) / len(clips)
        return {"begin_s": round(pace.begin_s, 3), "clip_s": round(clip_s, 4)}

    def _remember(self, model: str) -> None:
        """Keep the attempt's pace for the next one; what it waited for others before it began is not the model's."""
        pace, before = self._stopwatch.pace(), self._means.paces.get(model)
        if pace is not None:
            begin_s = pace.begin_s if before is None else min(pace.begin_s, before.begin_s)
            self._means.paces[model] = replace(pace, begin_s=begin_s)

    async def _describe(
        self, clips: list[ClipPlan], recorded: set[int], progress: Progress, record: Record
    ) -> AppError | None:
        """Describe what the round still lacks; return what ended that early, or None."""
        request, model = self._request, self._model
        pending = [clip for clip in clips if clip.index not in record.outcomes]
        if self._cancelled.is_set():
            return Cancelled("expected a caption, got a cancelled analysis") if pending else None
        if self._barren >= _MOST_BARREN_ATTEMPTS:
            return EngineFailed(f"expected a clip's outcome, got {self._barren} attempts that failed without one")
        if model is None or request.model_revision != model[0].revision:
            # Captions of two models in one timeline would be no answer to what was asked.
            return ModelLoadFailed(f"expected the model {request.options.model} as it was when asked, got another one")
        describing = Describing(request, self._means, *model, record, self._moved, self._asked, self._stopwatch.ended)
        kept = await describing.kept()
        await describing.keep([clip for clip in clips if clip.index in recorded], kept)
        if not pending:
            return None
        await describing.reuse(pending, kept)
        pending = [clip for clip in pending if clip.index not in record.outcomes]
        deadline_s = request.options.deadline_s
        give_up_s = None if deadline_s is None else (progress.started_at or time.time()) + deadline_s
        if not pending:
            return None
        try:
            return await describing.until_stopped(pending, Stop(self._cancelled, give_up_s))
        finally:
            self._remember(model[0].name)

    async def _retold(self, summary: dict[str, Any], outcomes: list[ClipOutcome]) -> dict[str, Any]:
        stories = self._means.stories
        if stories is None:
            return summary
        outcomes.sort(key=lambda outcome: outcome.index)
        return await stories.retell(summary, self._request, outcomes, self._cancelled, self._moved)

    def _result(
        self, clips: list[ClipPlan], outcomes: dict[int, ClipOutcome], stopped: AppError | None
    ) -> dict[str, Any]:
        """Return the result; clips that were not reached are rows with the reason."""
        missing = ClipError("internal_error", "expected an outcome, got none")
        reason = missing if stopped is None else ClipError.of(stopped)
        rows = [outcomes.get(clip.index) or _not_reached(clip, reason) for clip in clips]
        request = self._request
        model = {"name": request.options.model, "revision": request.model_revision, "notice": None}
        result = build_result(
            analysis_id=request.id,
            model=model if self._model is None else asdict(self._model[0]),
            source=Source("", request.filename, request.sha256, request.size_bytes, request.video, ""),
            outcomes=rows,
            reused=sum(outcome.reused for outcome in rows),
            timings={"attempt_s": round(time.perf_counter() - self._begun_s, 6)},
            event_kinds=request.options.events,
            summary=request.options.summary,
        )
        status = "cancelled" if isinstance(stopped, Cancelled) else status_of(rows)
        return result | {"status": status, "round": self._claim.round, "attempts": self._claim.attempt}


def _barren(failures: Sequence[Failure]) -> int:
    """Return how many of the last failures came at the same number of clips."""
    return sum(1 for _ in takewhile(lambda one: one.clips == failures[-1].clips, reversed(failures)))


def _not_reached(clip: ClipPlan, reason: ClipError) -> ClipOutcome:
    return ClipOutcome(clip.index, clip.start_s, clip.end_s, len(clip.sample_times_s), error=reason)
