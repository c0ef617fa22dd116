"""Keep an engine at work: clips join what is under way as soon as memory allows, and leave when they end."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from deployments.contracts import Caption, DescribeRequest, EngineRequest
from deployments.errors import AppError, ClipRejected, DeviceLost, EngineFailed, OutOfMemory
from deployments.settings import VisionTuning
from deployments.vision.budget import MemoryBudget
from deployments.vision.engine import MemoryReading, Prepared, VisionEngine
from deployments.vision.observer import Observer
from deployments.vision.waiting import Clip, WaitingClips, cache_tokens, charge, fail

Answer = TypeVar("Answer")

logger = logging.getLogger("ray.serve.vidray.vision")

_ROUND_S = 0.25
"""How long steps go on before the event loop hears of it."""


class ClipBatcher:
    """Turns single `describe` calls into an engine's starts and steps, in the order of arrival.

    As many are under way as `tuning.max_batch_clips` and the memory budget allow. What fails is tried again as
    `WaitingClips` says, so that one bad clip does not fail its neighbours; of a clip that does not fit alone its
    questions one by one. A caller that goes away takes its clip with it. Nothing else is needed to stop: the loop's
    task ends whenever no clip is left.
    """

    def __init__(
        self,
        engine: VisionEngine,
        tuning: VisionTuning,
        observer: Observer | None = None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_lost` hears that the device is lost, for good, once its clips are answered."""
        self.tuning = tuning
        self._on_lost = on_lost
        self._observer = observer or Observer()
        self.memory: MemoryReading | None = None
        self.failures_in_a_row = 0
        self.lost: DeviceLost | None = None
        self.busy_since_s: float | None = None
        self.engine = engine
        # One thread owns the engine, so that its calls never overlap and the event loop stays free; the other one makes
        # the next clips ready meanwhile.
        self._engine_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._prepare_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare")
        self._waiting = WaitingClips()
        self._under_way: list[Clip] = []
        self._arrived = False
        self._loop: asyncio.Task[None] | None = None

    @property
    def queued(self) -> int:
        """Clips that wait for the engine."""
        return len(self._waiting)

    @property
    def at_work(self) -> bool:
        """Whether the engine has clips, be it of callers that have gone."""
        return self._loop is not None and not self._loop.done()

    @property
    def budget(self) -> MemoryBudget:
        """What is known of how much fits into the device's memory."""
        return self._waiting.budget

    def loaded(self, memory: MemoryReading | None) -> None:
        """Begin to learn how much fits from the reading of the loaded model, with nothing under way."""
        self.memory = memory
        self._waiting.budget = MemoryBudget(memory)

    async def on_engine(self, call: Callable[..., Answer], *args: Any) -> Answer:
        """Call something on the engine's thread, between starts and steps."""
        return await asyncio.get_running_loop().run_in_executor(self._engine_thread, call, *args)

    async def describe(self, request: EngineRequest) -> Caption:
        """Caption one clip, or go on with one conversation; `engine_s`, `queue_s` and `batch_clips` are filled here.

        Raises OutOfMemory where one does not fit alone because others have taken of the device's memory, ClipRejected
        where it does not otherwise, and what the engine raises.
        """
        try:
            return await self._described(request)
        except OutOfMemory as error:
            if not isinstance(request, DescribeRequest) or not request.also:
                if self.budget.is_short(self.memory):
                    raise  # others have taken of the device since; they may give it back
                raise ClipRejected("a clip must fit into the device's memory alone, got one that does not") from error
        # The answers to its questions do not fit side by side.
        parts = [await self.describe(part) for part in request.apart()]
        first, *others = [dataclasses.replace(part, engine_s=0.0) for part in parts]
        return dataclasses.replace(first, engine_s=sum(part.engine_s for part in parts), also=tuple(others))

    async def _described(self, request: EngineRequest) -> Caption:
        since_s = time.perf_counter()
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self._prepare_thread, self.engine.prepare, request)
        if self.lost is not None:
            raise self.lost
        clip = Clip(prepared, since_s, loop.create_future())
        self._waiting.append(clip)
        self._observer.waiting(len(self._waiting))
        self._arrived = True
        if not self.at_work:
            self._loop = asyncio.create_task(self._serve())
        return await clip.answer

    async def _serve(self) -> None:
        most = self.tuning.max_batch_clips
        if most is None or len(self._waiting) < most:
            await asyncio.sleep(self.tuning.batch_wait_s)
        try:
            while self._waiting or self._under_way:
                await self._leave_with_callers()
                self._arrived = False
                batch = self._waiting.take(self._under_way, self.tuning.max_batch_clips)
                self._observer.waiting(len(self._waiting))
                if batch:
                    await self._start(batch)
                if self._under_way:
                    await self._go_on()
        except DeviceLost as error:  # as clips were dropped
            self._lose(error)
        except BaseException as error:
            self._waiting.fail_all(error)
            fail(self._under_way, error)
            raise

    async def _leave_with_callers(self) -> None:
        self._waiting.forget_answered()
        if left := [clip for clip in self._under_way if clip.answer.done()]:
            await self._drop(left)

    async def _drop(self, clips: Sequence[Clip]) -> None:
        await self.on_engine(self.engine.drop, [clip.prepared for clip in clips])
        self._under_way = [clip for clip in self._under_way if clip not in clips]

    async def _start(self, batch: list[Clip]) -> None:
        begun_s = self._begin_call()
        tokens = cache_tokens([*self._under_way, *batch])
        try:
            reading = await self.on_engine(self._start_and_read, [clip.prepared for clip in batch])
        except Exception as error:
            # A start fails as a whole and leaves what was under way as it was.
            charge(batch, begun_s)
            self._failed(batch, error, tokens, company=len(batch) > 1 or bool(self._under_way))
            return
        finally:
            self.busy_since_s = None
        charge(batch, begun_s)
        self.memory = reading
        self.budget.fitted(tokens, reading)
        self._observer.began(
            clips=len(batch),
            frames=sum(clip.prepared.frame_count for clip in batch),
            cache_tokens=tokens,
            memory=reading,
        )
        self._waiting.begun()
        self._under_way += batch
        for clip in batch:
            clip.queue_s = begun_s - clip.since_s
            clip.company = len(self._under_way)

    def _start_and_read(self, batch: Sequence[Prepared]) -> MemoryReading | None:
        with self._own_peak():
            self.engine.start(batch)
        return self.engine.memory()

    @contextmanager
    def _own_peak(self) -> Iterator[None]:
        """Read the memory after a call that fails, so that what it took is not counted as the next one's."""
        try:
            yield
        except DeviceLost:
            raise
        except Exception:
            self.memory = self.engine.memory()
            raise

    async def _go_on(self) -> None:
        begun_s = self._begin_call()
        try:
            ended = dict(await self.on_engine(self._steps))
        except Exception as error:
            clips = self._under_way
            charge(clips, begun_s)
            if not isinstance(error, DeviceLost):
                await self._drop(clips)
            self._under_way = []
            self._failed(clips, error, cache_tokens(clips), company=len(clips) > 1)
            return
        finally:
            self.busy_since_s = None
        charge(self._under_way, begun_s)
        for clip in self._under_way:
            if (caption := ended.get(clip.prepared)) and not clip.answer.done():
                timed = dataclasses.replace(
                    caption, engine_s=clip.engine_s, queue_s=clip.queue_s, batch_clips=clip.company
                )
                clip.answer.set_result(timed)
                self._observer.ended(timed, frames=clip.prepared.frame_count)
        self._under_way = [clip for clip in self._under_way if clip.prepared not in ended]
        if ended:
            self.failures_in_a_row = 0

    def _steps(self) -> list[tuple[Prepared, Caption]]:
        """Go on until something ends, somebody new has come or the round is over."""
        over_s = time.perf_counter() + _ROUND_S
        with self._own_peak():
            while True:
                ended = self.engine.step()
                if ended or self._arrived or time.perf_counter() >= over_s:
                    return ended

    def _begin_call(self) -> float:
        self.busy_since_s = time.monotonic()
        return time.perf_counter()

    def _failed(self, clips: list[Clip], error: Exception, tokens: int, *, company: bool) -> None:
        """Count a failed call, in which `tokens` were to be under way, and see to its clips."""
        if isinstance(error, DeviceLost):
            fail(clips, error)
            self._lose(error)
            return
        if isinstance(error, OutOfMemory):
            if company:
                self._observer.ran_out_of_memory()
        elif isinstance(error, EngineFailed) or not isinstance(error, AppError):
            self.failures_in_a_row += 1
            self._observer.failed()
            logger.warning("engine call failed", exc_info=error, extra={"clips": len(clips)})
        self._waiting.try_again(clips, error, tokens, company=company)
        if isinstance(error, OutOfMemory):
            logger.warning("out of memory", extra={"clips": len(clips), "budget_tokens": self.budget.tokens})

    def _lose(self, error: DeviceLost) -> None:
        self.lost = error
        logger.error("device lost", exc_info=error)
        self._waiting.fail_all(error)
        fail(self._under_way, error)
        self._under_way = []
        self._on_lost()
