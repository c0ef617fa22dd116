"""Probe and decode untrusted video in a child process, so that nothing a file does reaches the caller's process."""

import math
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from pydantic import TypeAdapter

from deployments.contracts import FrameBatch
from deployments.errors import AppError, DecoderLost, PoisonClip, UnreadableVideo
from deployments.retry import RetryPolicy
from pipelines.sandbox_pipe import ChildDied, ChildProcess, Fault, SandboxLimits, patience
from pipelines.video import ClipPlan, DecoderName, VideoInfo

__all__ = ["ATTEMPTS", "Fault", "Sandbox", "SandboxLimits"]

ATTEMPTS = 3
"""How often a probe or a clip may kill its child before it is given up."""

_RETRY = RetryPolicy(attempts=ATTEMPTS)


class Sandbox:
    """Owns one decoder process, started when first needed, kept between calls and replaced when it dies.

    Threads may share a sandbox; they take turns. An iterator of `decode` holds the turn until it is used up or closed.
    """

    def __init__(self, limits: SandboxLimits | None = None, *, faults: Sequence[Fault] = ()) -> None:
        self._limits = limits or SandboxLimits()
        self._faults = tuple(faults)
        self._child: ChildProcess | None = None
        self._turn = threading.Lock()
        self._holder: int | None = None
        self._rng = random.Random()

    @property
    def child_pid(self) -> int | None:
        """The process id of the running child, None when there is none."""
        return self._child.pid if self._child else None

    def probe(self, path: str | os.PathLike[str]) -> VideoInfo:
        """Return what is really in the file.

        Raises SourceNotFound, UnreadableVideo (also when the file kills the decoder), FrameTooLarge, and DecoderLost
        when no decoder process can be started.
        """
        request = {"op": "probe", "path": os.path.abspath(path)}
        with self._hold():
            for attempt in range(ATTEMPTS):
                try:
                    child = self._started()
                    child.send(request | {"attempt": attempt}, self._limits.deadline_s)
                    answer, _ = child.receive(self._limits.deadline_s)
                    if answer.get("kind") == "video":
                        return _video(answer)
                    raise _error(answer)
                except ChildDied as death:
                    why = self._bury(death)
        raise _unopenable(path, why)

    def decode(
        self,
        path: str | os.PathLike[str],
        clips: Sequence[ClipPlan],
        size: tuple[int, int],
        decoder: DecoderName = "pyav",
    ) -> Iterator[tuple[ClipPlan, FrameBatch | AppError]]:
        """Yield each clip, in the order given, with its frames at `size` (width, height) or why there are none.

        Clips in order of time share seeks and decoded frames. Nothing the file does is raised: a clip that ends its
        decoder at three attempts gets PoisonClip, and an error of the whole file is yielded for every clip.
        """
        request = {"op": "decode", "path": os.path.abspath(path), "size": list(size), "decoder": decoder}
        with self._hold():
            done, attempt, opened = 0, 0, False
            try:
                while done < len(clips):
                    try:
                        run = self._run(request | {"attempt": attempt}, clips[done:], size)
                        opened = next(run) is None
                        for outcome in run:
                            assert outcome is not None
                            done, attempt = done + 1, 0
                            yield clips[done - 1], outcome
                    except ChildDied as death:
                        why, attempt = self._bury(death), attempt + 1
                        if attempt < ATTEMPTS:
                            continue
                        if not opened:
                            raise _unopenable(path, why) from None
                        done, attempt = done + 1, 0
                        yield clips[done - 1], _poison(clips[done - 1], why)
            except AppError as error:
                rest, done = clips[done:], len(clips)
                for clip in rest:
                    yield clip, error
            finally:
                if done < len(clips):  # the child may still be at work, and its answers are of no use
                    self._end_child()

    def close(self) -> None:
        """End the child process; the next call would start another."""
        with self._hold():
            self._end_child()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):
            self._end_child()

    @contextmanager
    def _hold(self) -> Iterator[None]:
        me = threading.get_ident()
        if self._holder == me:
            raise RuntimeError("expected the last decode of this sandbox to be used up or closed, got another call")
        with self._turn:
            self._holder = me
            try:
                yield
            finally:
                self._holder = None

    def _run(
        self, request: Mapping[str, Any], clips: Sequence[ClipPlan], size: tuple[int, int]
    ) -> Iterator[FrameBatch | AppError | None]:
        """Yield None once the file is open, then one outcome per clip. Raises ChildDied or the file's AppError."""
        deadline_s = self._limits.deadline_s
        child = self._started()
        child.send({**request, "clips": [_clip(clip) for clip in clips]}, deadline_s)
        opened, _ = child.receive(deadline_s)
        if opened.get("kind") != "opened":
            raise _error(opened)
        yield None
        width, height = size
        for clip in clips:
            most = len(clip.sample_times_s) * height * width * 3
            answer, raw = child.receive(deadline_s * patience(clip.sample_times_s), max_bytes=most)
            yield _batch(answer, raw, size) if answer.get("kind") == "clip" else _error(answer)

    def _started(self) -> ChildProcess:
        """Return the running child or a new one; that one does not start is no clip's fault and is tried again."""
        for failures in range(ATTEMPTS):
            if self._child is not None:
                break
            if failures > 1:  # the first failure may be chance, a second one wants time
                time.sleep(_RETRY.wait_s(failures - 1, self._rng))
            try:
                self._child = ChildProcess(self._limits, self._faults)
            except (ChildDied, OSError) as error:
                why = str(error)
        if self._child is None:
            raise DecoderLost(f"expected a decoder process to start in {ATTEMPTS} attempts, but {why}")
        return self._child

    def _bury(self, death: ChildDied) -> str:
        self._end_child()
        return str(death)

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.kill("it is no longer needed")
            self._child = None


def _clip(clip: ClipPlan) -> dict[str, Any]:
    times_s = list(clip.sample_times_s)
    return {"index": clip.index, "start_s": clip.start_s, "end_s": clip.end_s, "sample_times_s": times_s}


def _unopenable(path: str | os.PathLike[str], why: str) -> UnreadableVideo:
    return UnreadableVideo(
        f"expected a video that can be opened, got one whose decoder ended at each of {ATTEMPTS} attempts: {why}: "
        f"{Path(path).name}",
        attempts=ATTEMPTS,
    )


def _poison(clip: ClipPlan, why: str) -> PoisonClip:
    return PoisonClip(
        f"expected frames, got a decoder that ended at each of {ATTEMPTS} attempts: {why}",
        clip_index=clip.index,
        attempts=ATTEMPTS,
    )


def _video(answer: Mapping[str, Any]) -> VideoInfo:
    try:
        video = _VIDEO_INFO.validate_python(answer["video"])
        if not all(map(math.isfinite, (video.duration_s, video.fps, video.start_pts_s))) or video.duration_s <= 0:
            raise ValueError
        return video
    except (ValueError, KeyError):  # a ValidationError is a ValueError
        raise ChildDied("it does not speak the protocol") from None


def _batch(answer: Mapping[str, Any], raw: bytearray, size: tuple[int, int]) -> FrameBatch:
    """Return the frames, checked against what was asked for. Raises ChildDied."""
    try:
        pts_s = np.array(answer["pts_s"], dtype=np.float64)
        frames = np.frombuffer(raw, dtype=np.uint8).reshape(len(pts_s), size[1], size[0], 3)
        return FrameBatch(frames=frames, pts_s=pts_s)
    except (TypeError, ValueError, KeyError):
        raise ChildDied("it does not speak the protocol") from None


def _error(answer: Mapping[str, Any]) -> AppError:
    """Return the error that the child names. Raises ChildDied when there is none of that code."""
    if answer.get("kind") == "crash":
        raise ChildDied(str(answer.get("why")))
    code, message, details = answer.get("code"), answer.get("message"), answer.get("details")
    kind = _ERRORS.get(code) if isinstance(code, str) else None
    if kind is None or not isinstance(message, str) or not isinstance(details, dict):
        raise ChildDied("it does not speak the protocol")
    error = kind(message)
    error.details = details
    return error


def _tree(root: type[AppError]) -> Iterator[type[AppError]]:
    yield root
    for branch in root.__subclasses__():
        yield from _tree(branch)


# Typed and finite: what a decoder that was taken over might say must not reach the plan.
_VIDEO_INFO = TypeAdapter(VideoInfo)
_ERRORS = {kind.code: kind for kind in _tree(AppError)}
