"""How long `vidray analyze` took here before: kept for the next run."""

import contextlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from deployments.contracts import ModelInfo
from deployments.errors import InvalidInput
from pipelines.video import ClipPlan
from serve_app.local_file import write_whole
from serve_app.pace import Pace, Stopwatch, known_pace


class Paces:
    """The pace of the last run with the model, on a Ray of its own or on one that runs."""

    def __init__(self, model: ModelInfo, *, own_ray: bool) -> None:
        self._key = " ".join((model.name, model.revision, "own Ray" if own_ray else "running Ray"))
        self._known = known_pace(model, own_ray=own_ray)

    def left_s(self, clips: Sequence[ClipPlan], stopwatch: Stopwatch) -> float | None:
        """Return how long the rest takes if this run is like the last one, None when there was none."""
        try:
            pace = Pace(**_read()[self._key])
            expected_s = pace.expected_s(clips)
        except (KeyError, TypeError):  # none yet, or not of this version
            if self._known is None:
                return None
            expected_s = self._known.expected_s(clips)
        return expected_s - (time.monotonic() - stopwatch.begun_s)

    def remember(self, stopwatch: Stopwatch) -> None:
        """Keep this run's pace for the next one, if it has one."""
        pace = stopwatch.pace()
        if pace is None:
            return
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
