"""Rows of a Ray Data dataset for an event loop, and the end of Ray that waits for whoever still reads them."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import ray
from ray.data import Dataset
from ray.exceptions import RayError

from deployments.ray_errors import translate

_logger = logging.getLogger(__name__)
_CLOSED_WITHIN_S = 10.0
"""Longest wait for datasets that end: the usual one takes a second, and one that waits for a busy cluster any time."""
_closings: set[Future[None]] = set()
"""What ends the datasets whose readers have left, each in the thread that read it."""


async def dataset_rows(dataset: Dataset) -> AsyncGenerator[dict[str, Any], None]:
    """Run the dataset in a thread of its own and yield its rows, one per request: the consumer sets the pace.

    Closing the iterator returns at once; the dataset's tasks end in that thread. Raises what `translate` makes of
    Ray's errors.
    """
    rows = _rows(dataset)
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dataset-rows")
    try:
        while (row := await loop.run_in_executor(thread, next, rows, None)) is not None:
            yield row
    except RayError as error:
        raise translate(error) from error
    finally:
        # Queued behind a `next` that may still run: closing ends Ray Data's executor and its tasks.
        closing = thread.submit(_close, rows)
        _closings.add(closing)
        closing.add_done_callback(_closings.discard)
        thread.shutdown(wait=False)


def leave_ray() -> None:
    """Disconnect this process from Ray, and end the Ray that it started, once the datasets that it left have ended.

    A dataset whose Ray is gone halfway through its end leaves its tasks running and tracebacks on the console.
    """
    try:
        wait(set(_closings), _CLOSED_WITHIN_S)
    finally:  # after a second Ctrl-C, too
        ray.shutdown()


def _rows(dataset: Dataset) -> Generator[dict[str, Any], None, None]:
    tables: Any = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    # Closed by us and not by the garbage collector, which can only print what goes wrong.
    with contextlib.closing(tables):
        for table in tables:
            for at in range(table.num_rows):
                yield {name: table.column(name)[at] for name in table.column_names}


def _close(rows: Generator[dict[str, Any], None, None]) -> None:
    try:
        rows.close()
    except Exception:  # nobody is left to raise it to
        _logger.exception("expected a dataset's tasks to end")
