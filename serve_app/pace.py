"""How long a model takes for frames: what an ETA rests on until a run has a pace of its own."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.contracts import ModelInfo
from pipelines.outcome import ClipOutcome
from pipelines.pace import MOMENT_S
from pipelines.video import ClipPlan


@dataclass(frozen=True, slots=True)
class Pace:
    """`begin_s` seconds until frames are described, `frame_s` for each frame."""

    begin_s: float
    frame_s: float

    def expected_s(self, clips: Sequence[ClipPlan]) -> float:
        """Return how long a run takes that describes these clips."""
        return self.begin_s + self.frame_s * frames_of(clips)


def frames_of(clips: Sequence[ClipPlan]) -> int:
    return sum(len(clip.sample_times_s) for clip in clips)


def known_pace(model: ModelInfo, *, own_ray: bool) -> Pace | None:
    """Return the pace of a model that every machine has, as it was measured on two cores; None of any other.

    It says a newcomer how long the first run takes, give or take what their machine is faster or slower.
    """
    if not model.revision.startswith("transformers:demo:"):
        return None
    # Rounded from runs on two cores; for the film of benchmarks/first_look.py it says 43 s where one took 49.
    return Pace(begin_s=25.0 if own_ray else 5.0, frame_s=0.03)


class Stopwatch:
    """Takes the pace of one run."""

    def __init__(self, begun_s: float) -> None:
        """`begun_s` is when the run began, on the clock of `time.monotonic`."""
        self.begun_s = self._first_s = self._last_s = begun_s
        self._first_frames = self._frames = 0

    def ended(self, outcome: ClipOutcome) -> None:
        """A clip has its outcome. Failed ones have no part in the pace, nor do those that were there before."""
        if outcome.error is not None or outcome.reused:
            return
        now_s = time.monotonic()
        if not self._frames:
            self._first_s = now_s
        self._last_s = now_s
        self._frames += outcome.frames_planned
        if now_s - self._first_s < MOMENT_S:
            self._first_frames = self._frames

    def pace(self) -> Pace | None:
        """Return the pace of what came after the first moment, None when nothing did.

        `frame_s` is `(last - first) / (frames - first frames)`, so that what a model takes to load is no part of it;
        at that pace the first frames were begun `begin_s` after the run.
        """
        frames = self._frames - self._first_frames
        if not frames:
            return None
        frame_s = (self._last_s - self._first_s) / frames
        return Pace(max(0.0, self._first_s - self.begun_s - frame_s * self._first_frames), frame_s)
