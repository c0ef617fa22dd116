"""Take rounds of analyses from the queue and run many at once; take over those whose runner died."""

import asyncio
import contextlib
import functools
import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from obstore.store import ObjectStore

from deployments.contracts import ModelInfo
from deployments.errors import AppError, Deposed, StorageFailed
from deployments.settings import MAX_BATCH_CLIPS
from pipelines.describe import Describer
from serve_app.analyses import queue
from serve_app.analyses.backoff import Backoff
from serve_app.analyses.cloud import Cloud
from serve_app.analyses.describing import Means
from serve_app.analyses.lease import Leases, Node
from serve_app.analyses.ledger import LEFT_OVER_S, AnalysisLedger, Claim
from serve_app.analyses.queue import Waiting
from serve_app.analyses.reports import REPORT_S, Reporter
from serve_app.analyses.request import AnalysisRequest
from serve_app.analyses.run import Run
from serve_app.analyses.stories import Stories
from serve_app.analyses.tally import Metered, Tally
from serve_app.analyses.turns import Turns

logger = logging.getLogger("ray.serve.vidray.runner")

_LOOKS_AT_ONCE = 16
_FULL_PAUSE_S = 0.2
"""Between two looks at the queue while no slot is free: so late, at most, a cancelled analysis is stopped."""


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """How much at once, and how patiently.

    Of the `at_once` analyses that are claimed, `decoding` decode at a time, each for `turn_s` while others wait for it.
    A claim whose beat has not changed for `lease_s` may be taken over. It changes every `beat_s` while the work goes
    on; work that has not for `hung_s` hangs, unless a clip of it is being described: that ends by itself, after as long
    as DescribeOptions says.
    """

    in_flight_clips: int = MAX_BATCH_CLIPS
    decode_cpus: float = 1.0
    at_once: int = 64
    decoding: int = 16
    turn_s: float = 10.0
    lease_s: float = 30.0
    beat_s: float = 5.0
    hung_s: float = 1200.0
    poll_s: float = 0.5
    report_s: float = REPORT_S


@dataclass(frozen=True, slots=True)
class _Work:
    claim: Claim
    run: Run
    task: "asyncio.Task[None]"


class Runner:
    """Runs analyses of the named models; one of several that share a store."""

    def __init__(
        self,
        store: ObjectStore,
        models: Mapping[str, tuple[ModelInfo, Describer]],
        node: Node,
        settings: RunnerSettings,
        stories: Stories | None = None,
        cloud: Cloud | None = None,
    ) -> None:
        self._store = store
        self._node = node
        self._settings = settings
        self._name = uuid.uuid4().hex
        self._tally = Tally(self._name)
        self._reporter = Reporter(store, self._tally, settings.report_s)
        self._models = {
            name: (info, Metered(describer, self._tally, name)) for name, (info, describer) in models.items()
        }
        self._leases = Leases(self._name, node, lease_s=settings.lease_s, beat_s=settings.beat_s)
        self._means = Means(
            store,
            asyncio.Semaphore(settings.in_flight_clips),
            Turns(settings.decoding, settings.turn_s),
            settings.decode_cpus,
            self._tally,
            stories,
            cloud,
        )
        self._running: dict[str, _Work] = {}
        self._asked: dict[str, tuple[AnalysisLedger, AnalysisRequest]] = {}
        """Requests of the waiting analyses, which never change."""
        self._backoff = Backoff()
        self._claiming = asyncio.Lock()
        self._wake = asyncio.Event()

    def nudge(self) -> None:
        """Look at the queue now instead of at the next poll."""
        self._wake.set()

    async def run_forever(self) -> None:
        """Work until cancelled; then stop what runs and give it free for others."""
        try:
            while True:
                await self._report()
                try:
                    await self._look_at_queue()
                except AppError as error:
                    logger.warning("queue cannot be read", exc_info=error)
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.poll_s):
                        await self._wake.wait()
                if not self._has_slot:
                    # Each new analysis is told of, and the queue grows: it is not read again for every one.
                    await asyncio.sleep(_FULL_PAUSE_S)
        finally:
            tasks = [work.task for work in self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._report(last=True)

    async def _report(self, *, last: bool = False) -> None:
        if self._means.cloud is not None:
            self._tally.report.bursts = self._means.cloud.bursts
        try:
            await self._reporter.report([] if last else list(self._running), last=last)
        except StorageFailed as error:
            logger.warning("report cannot be written", exc_info=error)

    async def _look_at_queue(self) -> None:
        listed = await queue.waiting(self._store)
        # A round is opened when the one before it is done: a place that one left is no work, and goes with this one's.
        present = {one.analysis_id: one for one in listed}
        self._asked = {one: asked for one, asked in self._asked.items() if one in present}
        self._backoff.keep(listed)
        others: list[Waiting] = []
        for one in present.values():
            work = self._running.get(one.analysis_id)
            if work is None:
                if self._has_room(one):
                    others.append(one)
            elif one.cancelled and one.round == work.claim.round:
                work.run.cancel()
        if others:
            await self._leases.begin({one.analysis_id for one in others})
        for at in range(0, len(others), _LOOKS_AT_ONCE):
            await asyncio.gather(*(self._consider(one, listed[one]) for one in others[at : at + _LOOKS_AT_ONCE]))

    async def _consider(self, one: Waiting, since_s: float) -> None:
        if not self._backoff.is_due(one):
            return
        try:
            await self._take(one, since_s)
        except Exception as error:
            # Whatever is wrong with one, a broken object or a bug, the others are run.
            fields = {"analysis_id": one.analysis_id, "wait_s": self._backoff.failed(one)}
            logger.error("analysis cannot be taken", exc_info=error, extra=fields)

    @property
    def _has_slot(self) -> bool:
        return len(self._running) < self._settings.at_once

    def _has_room(self, one: Waiting) -> bool:
        # To end a cancelled one costs next to nothing.
        return one.cancelled or self._has_slot

    async def _take(self, one: Waiting, since_s: float) -> None:
        """Run the round, if it is free and can be run here."""
        if not self._has_room(one):
            return
        asked = self._asked.get(one.analysis_id) or await self._request(one)
        if asked is None:
            if since_s < time.time() - LEFT_OVER_S:  # else it is being submitted or deleted
                await self._clear(one)
            return
        self._asked[one.analysis_id] = asked
        ledger, request = asked
        model = self._models.get(request.options.model)
        if model is None and not one.cancelled:
            return  # another runner may have it, or the next config
        free = await self._leases.look(ledger, one.round)
        if free is None or await queue.owner_of(self._store, one) is None:  # it may have ended since it was listed
            return
        claim = Claim(free.attempt, one.round, self._name, self._node.id)
        async with self._claiming:
            if not self._has_room(one) or not await ledger.claim(claim):
                return
            self._tally.attempt(taken_over=free.taken_over)
            run = Run(ledger, claim, request, self._means, model)
            if one.cancelled:
                run.cancel()
            task = asyncio.create_task(self._run(one, ledger, claim, run))
            self._running[one.analysis_id] = _Work(claim, run, task)
            task.add_done_callback(functools.partial(self._ended, one.analysis_id))

    async def _clear(self, one: Waiting) -> None:
        owner = await queue.owner_of(self._store, one)
        if owner is not None:
            await AnalysisLedger(self._store, owner, one.analysis_id).clear(one.round)

    async def _request(self, one: Waiting) -> tuple[AnalysisLedger, AnalysisRequest] | None:
        owner = await queue.owner_of(self._store, one)
        if owner is None:
            return None
        ledger = AnalysisLedger(self._store, owner, one.analysis_id)
        request = await ledger.request()
        return None if request is None else (ledger, request)

    def _ended(self, analysis_id: str, task: "asyncio.Task[None]") -> None:
        work = self._running.get(analysis_id)
        if work is not None and work.task is task:
            del self._running[analysis_id]
        self.nudge()

    async def _run(self, one: Waiting, ledger: AnalysisLedger, claim: Claim, run: Run) -> None:
        fields = {"analysis_id": one.analysis_id, "round": claim.round, "attempt": claim.attempt}
        logger.info("attempt begun", extra=fields)
        beating = asyncio.create_task(self._beat(ledger, claim, run))
        over = False
        try:
            if await ledger.exists():
                await run.work()
            else:
                self._asked.pop(one.analysis_id, None)  # it was deleted
            # The round is over, and its claim with it. A beat from here on might be all that is left of a deleted one.
            over = True
            logger.info("attempt ended", extra=fields)
        except Deposed as error:
            over = True
            logger.warning("attempt taken over", exc_info=error, extra=fields)
        except Exception as error:
            # Also a bug: another attempt may fare better, and one that never ends well ends as a failed analysis.
            logger.error("attempt failed", exc_info=error, extra=fields | {"wait_s": self._backoff.failed(one)})
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            if not over:
                with contextlib.suppress(StorageFailed):  # the lease runs out instead
                    # A beat of ours would keep a dead successor's claim alive.
                    if not await ledger.is_taken_over(claim):
                        await ledger.release(claim)

    async def _beat(self, ledger: AnalysisLedger, claim: Claim, run: Run) -> None:
        """Say that the run is at work as long as it is; stop it when it hangs, or is another runner's."""
        fields, count = {"analysis_id": ledger.analysis_id, "attempt": claim.attempt}, 0
        while not self._hangs(run):
            try:
                if await ledger.is_taken_over(claim):
                    logger.warning("attempt taken over and stopped", extra=fields)
                    break
                await ledger.beat(claim, count)
            except StorageFailed as error:
                logger.warning("beat failed", exc_info=error, extra=fields)
            count += 1
            await asyncio.sleep(self._settings.beat_s)
        else:
            logger.error("attempt hangs and is given up", extra=fields)
        work = self._running.pop(ledger.analysis_id)
        work.task.cancel()

    def _hangs(self, run: Run) -> bool:
        if run.describing:
            return False  # it may be behind many clips of others, and is given up where it is described
        if not run.in_flight and (self._means.turns.full or self._means.in_flight.locked()):
            return False  # it waits behind others
        return time.monotonic() - run.moved_s > self._settings.hung_s
