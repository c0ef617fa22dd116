"""Drive clips from the decoder to whoever describes them, and on to whoever records what became of them."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence

from deployments.errors import AppError
from pipelines.chain import DecodeRun, decoded_clips
from pipelines.outcome import ClipOutcome, DecodedClip

Describe = Callable[[DecodedClip], Awaitable[ClipOutcome]]
"""Returns a clip's outcome, whatever becomes of it; raises what ends the work as a whole."""
Record = Callable[[str, ClipOutcome], Awaitable[None]]
"""Writes down the outcome of a clip of the named video."""


async def drive(
    runs: Sequence[DecodeRun],
    describe: Describe,
    record: Record,
    *,
    in_flight: asyncio.Semaphore,
    decode_cpus: float = 1.0,
    on_decoded: Callable[[str], None] = lambda video: None,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Decode and describe every clip of the runs, and have each outcome recorded once.

    `in_flight` bounds the clips between decoder and record, over everyone who shares it. Those who wait for it get it
    in turn, so that a short video is not stuck behind a long one. Cancelling stops new clips at once; what was recorded
    stands. Once `is_over` says so, which is asked after each clip, no other is begun, and those in flight are awaited.
    Raises what `describe` and `record` raise.
    """

    async def work(clip: DecodedClip) -> None:
        await record(clip.video, await describe(clip))

    decoded = decoded_clips(runs, decode_cpus=decode_cpus)
    with one_failure():
        async with asyncio.TaskGroup() as group, contextlib.aclosing(decoded) as clips:
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


@contextlib.contextmanager
def one_failure() -> Iterator[None]:
    """Raise the first AppError of a TaskGroup inside instead of the group around it.

    Where something else failed, too, that is a bug and is raised as the group that it is.
    """
    try:
        yield
    except* AppError as errors:
        # One failure is enough to end the work; a caller wants it, not the group around it.
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        failure = first
    else:
        return
    raise failure
