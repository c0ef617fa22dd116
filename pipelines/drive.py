"""Drive clips from the decoder through the model to whoever records what became of them."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from deployments.errors import AppError, ModelLoadFailed
from deployments.retry import RetryPolicy
from pipelines.chain import DecodeRun, decoded_clips
from pipelines.describe import DescribeOptions, Describer, describe_clip, failed
from pipelines.outcome import ClipOutcome, DecodedClip

_ONCE = RetryPolicy(attempts=1)
Record = Callable[[str, ClipOutcome], Awaitable[None]]
"""Writes down the outcome of a clip of the named video."""


async def drive(
    runs: Sequence[DecodeRun],
    describer: Describer,
    options: Mapping[str, DescribeOptions],
    record: Record,
    *,
    in_flight: asyncio.Semaphore,
    decode_cpus: float = 1.0,
    on_decoded: Callable[[str], None] = lambda video: None,
    is_over: Callable[[], bool] = lambda: False,
    fallback: Describer | None = None,
) -> None:
    """Decode and describe every clip of the runs, each with its video's options, and have each outcome recorded once.

    `in_flight` bounds the clips between decoder and record, over everyone who shares it. Those who wait for it get it
    in turn, so that a short video is not stuck behind a long one. Cancelling stops new clips at once; what was recorded
    stands. Once `is_over` says so, which is asked after each clip, no other is begun, and those in flight are awaited.
    A decoded clip that the model fails for good, or that has none, is put to `fallback`, if there is one, which tries
    again by itself.
    Raises ModelLoadFailed and what `record` raises.
    """
    try:
        await _drive(runs, describer, options, record, in_flight, decode_cpus, on_decoded, is_over, fallback)
    except* AppError as errors:
        # One failure is enough to end the work; a caller wants it, not the group around it.
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        failure = first
    else:
        return
    raise failure


async def _drive(
    runs: Sequence[DecodeRun],
    describer: Describer,
    options: Mapping[str, DescribeOptions],
    record: Record,
    in_flight: asyncio.Semaphore,
    decode_cpus: float,
    on_decoded: Callable[[str], None],
    is_over: Callable[[], bool],
    fallback: Describer | None,
) -> None:
    rng = random.Random()
    suspects = asyncio.Lock()

    async def work(clip: DecodedClip) -> None:
        how = options[clip.video]
        try:
            outcome = await describe_clip(clip, describer, how, rng, suspects)
        except ModelLoadFailed as error:
            if fallback is None or clip.frames is None:
                raise
            outcome = failed(clip, error)
        if outcome.error is not None and fallback is not None and clip.frames is not None:
            other = await describe_clip(clip, fallback, replace(how, retry=_ONCE), rng, asyncio.Lock())
            # Where both fail, the first failure says what is wrong here.
            if other.error is None:
                outcome = replace(other, attempts=outcome.attempts + other.attempts)
        await record(clip.video, outcome)

    async with asyncio.TaskGroup() as group, contextlib.aclosing(decoded_clips(runs, decode_cpus=decode_cpus)) as clips:
        while True:
            await in_flight.acquire()
            try:
                clip = await anext(clips)
            except BaseException as end:
                in_flight.release()
                if isinstance(end, StopAsyncIteration):
                    break
                raise
            on_decoded(clip.video)
            # A callback, not the task's own `finally`: a task cancelled before it starts never runs its body.
            group.create_task(work(clip)).add_done_callback(lambda _: in_flight.release())
            if is_over():
                break
