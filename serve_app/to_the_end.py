"""Work that is not to stop half-way because the one who asked for it has gone.

Serve's proxy lets a client cut its own request at any moment, by leaving or by the header `x-request-timeout-seconds`:
what changes the store is a task of its own, which goes on.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

logger = logging.getLogger("ray.serve.vidray.gateway")

Result = TypeVar("Result")
_going_on: set[asyncio.Task[Any]] = set()
"""The event loop itself holds its tasks weakly."""


async def to_the_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Return what the work returns; when the caller is cancelled, the work goes on without one."""
    return await shared(begun(work))


def begun(work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
    """Start work that goes on whoever waits for it."""
    task = asyncio.create_task(work)
    _going_on.add(task)
    task.add_done_callback(_going_on.discard)
    return task


async def shared(task: "asyncio.Task[Result]") -> Result:
    """Wait for begun work; being cancelled ends the wait alone."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            task.add_done_callback(_log_failure)
        raise


def _log_failure(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("work failed after its caller had gone", exc_info=error)
