"""The Ray Data chain: planned clips in, decoded clips out, as they are ready and never far ahead of their consumer.

runs of neighbouring clips ── decode (tasks, each with a sandboxed decoder process) ── one row per clip
"""

import asyncio
import contextlib
import functools
import os
import pickle
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from obstore.store import ObjectStore
from ray.data import Dataset, ExecutionResources, TaskPoolStrategy

from deployments.contracts import FrameBatch
from deployments.errors import AppError, SourceChanged
from deployments.native_heap import return_large_blocks
from pipelines.node_copy import node_copy
from pipelines.outcome import ClipError, DecodedClip
from pipelines.rows import dataset_rows
from pipelines.sandbox import Sandbox
from pipelines.source import Source, check_unchanged, inspect_source, shown
from pipelines.video import ClipPlan, DecoderName

RUN_CLIPS = 8
"""Clips per decode task: they share the open file, and a task's fixed 40-70 ms (measured) is spread over them."""
DECODE_AHEAD_BYTES = 256 * 2**20
"""Most bytes of decoded frames that may wait in the object store, per analysis: memory stays flat on any length."""

_ROW = pa.schema(
    [
        ("video", pa.string()),
        ("clip", pa.int64()),
        ("frames", pa.binary()),
        ("shape", pa.list_(pa.int64())),
        ("pts_s", pa.list_(pa.float64())),
        ("error_code", pa.string()),
        ("error_message", pa.string()),
        ("error_retryable", pa.bool_()),
        ("decode_s", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class DecodeRun:
    """Neighbouring clips of a video that one task decodes, at `width` x `height` pixels; `stamp` is the file's.

    With a `store`, `path` is that of an object of so many `bytes`, which each node fetches for itself. Errors
    call the file by `filename`: that of its path may be one that no client has ever heard of.
    """

    video: str
    path: str
    filename: str
    stamp: str | None
    decoder: DecoderName
    width: int
    height: int
    clips: tuple[ClipPlan, ...]
    store: ObjectStore | None = None
    bytes: int = 0


def split_runs(
    video: str, source: Source, clips: Sequence[ClipPlan], size: tuple[int, int], decoder: DecoderName
) -> list[DecodeRun]:
    """Cut a video's clips, in order, into runs of at most RUN_CLIPS."""
    whole = DecodeRun(
        video, source.path, source.filename, source.stamp, decoder, *size, tuple(clips), source.store, source.bytes
    )
    return [replace(whole, clips=whole.clips[at : at + RUN_CLIPS]) for at in range(0, len(clips), RUN_CLIPS)]


async def decoded_clips(runs: Sequence[DecodeRun], *, decode_cpus: float = 1.0) -> AsyncGenerator[DecodedClip, None]:
    """Yield each planned clip once, decoded or with its error, as soon as it is ready; the order is free.

    Needs a running Ray. Closing the iterator ends the tasks. An error that is no clip's own (a lost node beyond Ray's
    retries, a bug) is raised.
    """
    plans = {(run.video, clip.index): clip for run in runs for clip in run.clips}
    if not plans:
        return
    return_large_blocks()
    # Ray puts each run into its object store, one by one: many take seconds, in which the caller's loop must go on.
    dataset = await asyncio.to_thread(decode_dataset, runs, decode_cpus=decode_cpus)
    async with contextlib.aclosing(dataset_rows(dataset)) as rows:
        async for row in rows:
            yield _decoded(row, plans[row["video"].as_py(), row["clip"].as_py()])


def decode_dataset(runs: Sequence[DecodeRun], *, decode_cpus: float) -> Dataset:
    """Return the lazy chain; each of its rows is one clip, in a block of its own, under 10 MB."""
    # one row per run, ~1 kB
    dataset: Dataset = ray.data.from_items([_row_of(run) for run in runs], override_num_blocks=len(runs))
    # decode (1:n): decode_cpus for the decoder process, which works while the task waits for it; one clip per row
    dataset = dataset.map_batches(
        _decode_run, batch_size=1, batch_format="pyarrow", compute=TaskPoolStrategy(), num_cpus=decode_cpus
    )
    _stream_rows(dataset)
    return dataset


async def inspected_sources(
    paths: Sequence[str], *, cpus: float
) -> AsyncGenerator[tuple[str, Source | AppError], None]:
    """Probe and hash many files in tasks; yield each with what it is or why it cannot be used, as soon as known."""
    if not paths:
        return
    # one row per path, ~100 B
    # as bytes, because a file's name need not be text
    names = [{"path": os.fsencode(path)} for path in paths]
    dataset: Dataset = ray.data.from_items(names, override_num_blocks=len(paths))
    # inspect (1:1): cpus for the decoder process and the hash; ~1 kB per row
    dataset = dataset.map_batches(
        _inspect, batch_size=1, batch_format="pyarrow", compute=TaskPoolStrategy(), num_cpus=cpus
    )
    _stream_rows(dataset)
    async with contextlib.aclosing(dataset_rows(dataset)) as rows:
        async for row in rows:
            # Written by _inspect on this cluster: a value of ours, whatever the video holds.
            yield os.fsdecode(row["path"].as_py()), pickle.loads(row["source"].as_py())


def _row_of(run: DecodeRun) -> dict[str, Any]:
    # A pickled store names its place; its keys are those of the environment it is loaded in.
    store = None if run.store is None else pickle.dumps(run.store)
    return asdict(replace(run, store=None)) | {"path": os.fsencode(run.path), "store": store}


def _stream_rows(dataset: Dataset) -> None:
    # One byte: every row is a block, so that it leaves its task as soon as it is made.
    dataset.context.target_max_block_size = 1
    dataset.context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=DECODE_AHEAD_BYTES
    )
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False


@functools.cache
def _worker_sandbox() -> Sandbox:
    """Return this worker process's sandbox, which is kept for the worker's next task."""
    return Sandbox()


def _inspect(batch: pa.Table) -> pa.Table:
    """Inspect one path (1 row) in this worker's sandbox."""
    path = os.fsdecode(batch.column("path")[0].as_py())
    source: Source | AppError
    try:
        source = inspect_source(path, _worker_sandbox())
    except AppError as error:
        source = error
    return pa.table({"path": [os.fsencode(path)], "source": pa.array([pickle.dumps(source)], pa.binary())})


def _decode_run(batch: pa.Table) -> Iterator[pa.Table]:
    """Decode one run (1 row) in this worker's sandbox."""
    for run in batch.to_pylist():
        path = os.fsdecode(run["path"])
        if run["store"] is None:
            yield from _decode_file(run, path)
        else:
            with node_copy(pickle.loads(run["store"]), path, run["bytes"]) as copy:
                yield from _decode_file(run, copy)


def _decode_file(run: dict[str, Any], path: str) -> Iterator[pa.Table]:
    clips = [ClipPlan(**{**clip, "sample_times_s": tuple(clip["sample_times_s"])}) for clip in run["clips"]]
    size = (run["width"], run["height"])
    begun_s = time.perf_counter()
    for clip, decoded in _worker_sandbox().decode(path, clips, size, run["decoder"]):
        if run["stamp"] is not None:
            try:
                check_unchanged(path, run["stamp"])
            except SourceChanged as changed:
                decoded = changed
        decode_s = time.perf_counter() - begun_s
        told = _renamed(decoded, path, run["filename"]) if isinstance(decoded, AppError) else decoded
        yield _row(run["video"], clip, told, decode_s)
        begun_s = time.perf_counter()


def _renamed(error: AppError, path: str, filename: str) -> ClipError:
    told = ClipError.of(error)
    for name in (path, os.path.basename(path)):
        told = replace(told, message=told.message.replace(shown(name), filename))
    return told


def _row(video: str, clip: ClipPlan, decoded: FrameBatch | ClipError, decode_s: float) -> pa.Table:
    row: dict[str, Any] = {"video": video, "clip": clip.index, "decode_s": decode_s}
    if isinstance(decoded, FrameBatch):
        row |= {
            "frames": decoded.frames.tobytes(),
            "shape": list(decoded.frames.shape),
            "pts_s": decoded.pts_s.tolist(),
        }
    else:
        row |= {"error_code": decoded.code, "error_message": decoded.message, "error_retryable": decoded.retryable}
    return pa.Table.from_pylist([row], schema=_ROW)


def _decoded(row: dict[str, Any], plan: ClipPlan) -> DecodedClip:
    code = row["error_code"].as_py()
    error = None if code is None else ClipError(code, row["error_message"].as_py(), row["error_retryable"].as_py())
    frames = None
    if error is None:
        # A view of the object store's memory, not a copy; it stays there until the clip is described.
        pixels = np.frombuffer(row["frames"].as_buffer(), dtype=np.uint8).reshape(row["shape"].as_py())
        frames = FrameBatch(pixels, np.array(row["pts_s"].as_py(), dtype=np.float64))
    return DecodedClip(row["video"].as_py(), plan, frames, error, row["decode_s"].as_py())
