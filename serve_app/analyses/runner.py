"""Take analyses from the queue and run several at once; take over those whose runner died."""

import asyncio
import contextlib
import functools
import logging
import random
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from obstore.store import ObjectStore

from deployments.contracts import ModelInfo
from deployments.errors import AppError, Deposed, StorageFailed, UnknownModel
from deployments.retry import RetryPolicy
from pipelines.describe import Describer
from serve_app.analyses.ledger import AnalysisLedger, Claim, queued, released
from serve_app.analyses.reports import REPORT_S, Reporter
from serve_app.analyses.run import Means, Run
from serve_app.analyses.tally import Metered, Tally

logger = logging.getLogger("ray.serve.vidray.runner")

_RETRY = RetryPolicy()


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """`lease_s`: a claim whose beat has not changed for so long may be taken over; `beat_s` apart, it does."""

    in_flight_clips: int = 32
    decode_cpus: float = 1.0
    at_once: int = 16
    lease_s: float = 30.0
    beat_s: float = 5.0
    poll_s: float = 1.0
    report_s: float = REPORT_S


@dataclass(frozen=True, slots=True)
class Node:
    """Where a runner lives: its Ray node, and which nodes are alive."""

    id: str
    alive: Callable[[], set[str]]


@dataclass(slots=True)
class _Failures:
    count: int
    not_before_s: float


class Runner:
    """Runs analyses of the named models; one of several that share a store."""

    def __init__(
        self,
        store: ObjectStore,
        models: Mapping[str, tuple[ModelInfo, Describer]],
        node: Node,
        settings: RunnerSettings,
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
        self._in_flight = asyncio.Semaphore(settings.in_flight_clips)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, _Failures] = {}
        self._seen_beats: dict[str, tuple[bytes | None, float]] = {}
        self._wake = asyncio.Event()
        self._rng = random.Random()

    @property
    def running(self) -> int:
        """How many analyses are at work here."""
        return len(self._running)

    def nudge(self) -> None:
        """Look at the queue now instead of at the next poll."""
        self._wake.set()

    async def run_forever(self) -> None:
        """Work until cancelled; then stop what runs and give it free for others."""
        try:
            while True:
                await self._report()
                try:
                    await self._take_what_is_free()
                except AppError as error:
                    logger.warning("queue cannot be read", exc_info=error)
                self._wake.clear()
                try:
                    async with asyncio.timeout(self._settings.poll_s):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)
            await self._report(last=True)

    async def _report(self, *, last: bool = False) -> None:
        try:
            await self._reporter.report([] if last else list(self._running), last=last)
        except StorageFailed as error:
            logger.warning("report cannot be written", exc_info=error)

    async def _take_what_is_free(self) -> None:
        waiting = await queued(self._store)
        self._seen_beats = {
            ledger.analysis_id: self._seen_beats[ledger.analysis_id]
            for ledger, _ in waiting
            if ledger.analysis_id in self._seen_beats
        }
        for ledger, number in waiting:
            if len(self._running) >= self._settings.at_once:
                return
            one = ledger.analysis_id
            failures = self._failures.get(one)
            if one in self._running or (failures and time.monotonic() < failures.not_before_s):
                continue
            claim = await self._claim(ledger)
            if claim is not None:
                task = asyncio.create_task(self._run(ledger, number, claim))
                self._running[one] = task
                task.add_done_callback(functools.partial(self._ended, one))

    def _ended(self, analysis_id: str, _: asyncio.Task[None]) -> None:
        del self._running[analysis_id]
        self.nudge()

    async def _claim(self, ledger: AnalysisLedger) -> Claim | None:
        """Return our claim of the analysis, None where another runner holds it."""
        claims = await ledger.claims()
        beat = await ledger.last_beat() if claims else None
        given_free = not claims or beat == released(claims[-1])
        if not given_free and not self._is_lost(ledger, claims[-1], beat):
            return None
        claim = Claim(len(claims) + 1, self._name, self._node.id)
        if not await ledger.claim(claim):
            return None
        self._tally.attempt(taken_over=not given_free)
        return claim

    def _is_lost(self, ledger: AnalysisLedger, last: Claim, beat: bytes | None) -> bool:
        """Whether the last claim's runner was on a node that is gone, or has not shown itself."""
        if last.node not in self._node.alive():
            return True
        known, since_s = self._seen_beats.get(ledger.analysis_id, (b"", 0.0))
        if known != beat or not since_s:
            # Waited for by our own clock: no two machines' clocks are compared.
            self._seen_beats[ledger.analysis_id] = (beat, time.monotonic())
            return False
        return time.monotonic() - since_s >= self._settings.lease_s

    async def _run(self, ledger: AnalysisLedger, number: int, claim: Claim) -> None:
        one = ledger.analysis_id
        fields = {"analysis_id": one, "attempt": claim.attempt}
        logger.info("attempt begun", extra=fields)
        beating = asyncio.create_task(self._beat(ledger, claim))
        deposed = False
        try:
            await self._work(ledger, number, claim)
            self._failures.pop(one, None)
            logger.info("attempt ended", extra=fields)
        except Deposed as error:
            deposed = True
            logger.warning("attempt taken over", exc_info=error, extra=fields)
        except Exception as error:
            # Also a bug: another attempt may fare better, and one that never ends well ends as a failed analysis.
            failures = self._failures.setdefault(one, _Failures(0, 0.0))
            failures.count += 1
            wait_s = _RETRY.wait_s(failures.count, self._rng)
            failures.not_before_s = time.monotonic() + wait_s
            logger.error("attempt failed", exc_info=error, extra=fields | {"wait_s": round(wait_s, 1)})
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            if not deposed:
                with contextlib.suppress(StorageFailed):  # the lease runs out instead
                    await ledger.release(claim)

    async def _work(self, ledger: AnalysisLedger, number: int, claim: Claim) -> None:
        request = await ledger.request()
        if request is None:
            await ledger.dequeue(number)  # it was deleted
            return
        name = request.options.model
        if name not in self._models:
            # Another runner may have it, or the next config: it waits in the queue.
            raise UnknownModel(f"expected one of the models {', '.join(sorted(self._models))}, got {name!r}")
        model, describer = self._models[name]
        means = Means(self._store, model, describer, self._in_flight, self._settings.decode_cpus, self._tally)
        await Run(ledger, claim, request, means).work()

    async def _beat(self, ledger: AnalysisLedger, claim: Claim) -> None:
        count = 0
        while True:
            try:
                if len(await ledger.claims()) > claim.attempt:
                    return  # taken over: a beat of ours would keep a dead successor's claim alive
                await ledger.beat(claim, count)
            except StorageFailed as error:
                logger.warning("beat failed", exc_info=error, extra={"analysis_id": ledger.analysis_id})
            count += 1
            await asyncio.sleep(self._settings.beat_s)
