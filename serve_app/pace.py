"""How long `vidray analyze` took here before: what its ETA rests on until the first caption is there."""

import contextlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deployments.contracts import ModelInfo
from deployments.errors import InvalidInput
from pipelines.outcome import ClipOutcome
from pipelines.video import ClipPlan
from serve_app.local_file import write_whole


@dataclass(frozen=True, slots=True)
class Pace:
    """`begin_s` seconds until clips are described, `frame_s` for each frame of theirs."""

    begin_s: float
    frame_s: float

    def expected_s(self, clips: Sequence[ClipPlan]) -> float:
        """Return how long a run takes that describes these clips."""
        return self.begin_s + self.frame_s * sum(len(clip.sample_times_s) for clip in clips)


class Stopwatch:
    """Takes the pace of a run with the model, on a Ray of its own or on one that runs, and knows that of the last."""

    def __init__(self, model: ModelInfo, *, own_ray: bool, begun_s: float) -> None:
        """`begun_s` is when the run began, on the clock of `time.monotonic`."""
        self._key = " ".join((model.name, model.revision, "own Ray" if own_ray else "running Ray"))
        self._begun_s = self._describing_s = self._last_s = begun_s
        self._clips = self._frames = 0

    def left_s(self, clips: Sequence[ClipPlan]) -> float | None:
        """Return how long the rest takes if this run is like the last one, None when there was none."""
        try:
            return Pace(**_read()[self._key]).expected_s(clips) - (time.monotonic() - self._begun_s)
        except (KeyError, TypeError):  # none yet, or not of this version
            return None

    def describing(self) -> None:
        """The model is there, and clips are described from now on."""
        self._describing_s = time.monotonic()

    def ended(self, outcome: ClipOutcome) -> None:
        if outcome.error is None:
            self._last_s = time.monotonic()
            self._clips += 1
            self._frames += outcome.frames_planned

    def remember(self) -> None:
        """Keep this run's pace for the next one, if it is one of two described clips or more."""
        if self._clips < 2:
            return
        pace = Pace(self._describing_s - self._begun_s, (self._last_s - self._describing_s) / self._frames)
        with contextlib.suppress(InvalidInput):  # a home that cannot be written costs an estimate, and no analysis
            write_whole(_file(), json.dumps(_read() | {self._key: asdict(pace)}) + "\n")


def _file() -> Path:
    # `Path.expanduser` raises where nobody knows a home.
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "vidray" / "pace.json"


def _read() -> dict[str, dict[str, float]]:
    try:
        told = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
