"""Gather concurrent clips into engine calls: whatever waits when the engine falls idle goes in together."""

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from deployments.contracts import Caption, EngineRequest
from deployments.errors import AppError
from deployments.settings import VisionTuning

DescribeBatch = Callable[[Sequence[EngineRequest]], Awaitable[list[Caption]]]


@dataclass(slots=True)
class _Waiting:
    request: EngineRequest
    since_s: float
    answer: asyncio.Future[Caption]


class ClipBatcher:
    """Turns single `describe` calls into `describe_batch` calls, one at a time, in the order of arrival.

    A batch that fails is tried again clip by clip, so that one bad clip does not fail its neighbours. A caller that
    goes away before its clip's turn takes the clip with it. Nothing else is needed to stop: the loop's task ends
    whenever no clip waits.
    """

    def __init__(self, describe_batch: DescribeBatch, tuning: VisionTuning) -> None:
        self._describe_batch = describe_batch
        self._waiting: deque[_Waiting] = deque()
        self._loop: asyncio.Task[None] | None = None
        self.tuning = tuning

    @property
    def queued(self) -> int:
        """Clips that wait for an engine call."""
        return len(self._waiting)

    async def describe(self, request: EngineRequest) -> Caption:
        """Caption one clip, or go on with one conversation; `engine_s`, `queue_s` and `batch_clips` are filled here."""
        answer: asyncio.Future[Caption] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(request, time.perf_counter(), answer))
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._serve_waiting())
        return await answer

    async def _serve_waiting(self) -> None:
        if len(self._waiting) < self.tuning.max_batch_clips:
            await asyncio.sleep(self.tuning.batch_wait_s)
        while batch := self._next_batch():
            try:
                await self._answer(batch)
            except Exception as error:
                if not isinstance(error, AppError) or len(batch) == 1:
                    _fail(batch, error)
                    continue
                for alone in batch:
                    if alone.answer.done():
                        continue  # its caller has gone since
                    try:
                        await self._answer([alone])
                    except Exception as own_error:
                        _fail([alone], own_error)

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self.tuning.max_batch_clips:
            waiting = self._waiting.popleft()
            if not waiting.answer.done():
                batch.append(waiting)
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
        begun_s = time.perf_counter()
        captions = await self._describe_batch([waiting.request for waiting in batch])
        share_s = (time.perf_counter() - begun_s) / len(batch)
        for waiting, caption in zip(batch, captions, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(
                    dataclasses.replace(
                        caption, engine_s=share_s, queue_s=begun_s - waiting.since_s, batch_clips=len(batch)
                    )
                )


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)
