"""Where an analysis stands: what its events say, taken in one after the other."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from serve_app.analyses.journal import Event

State = Literal["queued", "running", "completed", "partial", "failed", "cancelled"]
_PACE_CLIPS = 32
"""The pace is that of the last so many clips: it follows what the cluster does now."""


@dataclass(slots=True)
class Progress:
    """What the events up to `last_id` say. Times are in seconds since 1970; `clips_total` is None before a plan."""

    last_id: int = 0
    state: State = "queued"
    round: int = 0
    attempt: int = 0
    clips_total: int | None = None
    clips_done: int = 0
    clips_failed: int = 0
    started_at: float | None = None
    first_caption_at: float | None = None
    finished_at: float | None = None
    barren_attempts: int = 0
    """Attempts in a row, up to this one, that ended without a clip."""
    _ends: deque[float] = field(default_factory=lambda: deque(maxlen=_PACE_CLIPS))

    def take(self, events: Iterable[Event]) -> None:
        """Take in the next events."""
        for event in events:
            if event.id != self.last_id + 1:
                raise ValueError(f"expected event {self.last_id + 1}, got {event.id}")
            self.last_id = event.id
            if event.type == "progress":
                self._take_progress(event)
            elif event.type == "clip":
                self._take_clip(event)
            elif event.type == "done":
                self.state = event.data["status"]
                self.finished_at = event.at_s

    def _take_progress(self, event: Event) -> None:
        data = event.data
        self.state, self.round, self.attempt = data["state"], data["round"], data["attempt"]
        self.clips_total, self.clips_done, self.clips_failed = (
            data["clips_total"],
            data["clips_done"],
            data["clips_failed"],
        )
        self.finished_at = None
        self._ends.clear()
        if self.state == "queued":  # a new round
            self.barren_attempts = 0
            self.started_at = self.first_caption_at = None
        else:
            self.barren_attempts += 1
            self.started_at = self.started_at or event.at_s

    def _take_clip(self, event: Event) -> None:
        self.clips_done += 1
        self.barren_attempts = 0
        if "error" in event.data:
            self.clips_failed += 1
        else:
            self.first_caption_at = self.first_caption_at or event.at_s
        if not event.data["reused"]:
            self._ends.append(event.at_s)

    @property
    def done(self) -> bool:
        return self.state not in ("queued", "running")

    @property
    def fraction(self) -> float:
        return 0.0 if not self.clips_total else self.clips_done / self.clips_total

    def eta_s(self, now_s: float) -> float | None:
        """Return the seconds until the end at the present pace; None while that is unknown."""
        if self.done:
            return 0.0
        if self.clips_total is None or len(self._ends) < 2:
            return None
        # With the time since the last end in it, a pace that falls shows at once.
        pace_s = max(now_s - self._ends[0], self._ends[-1] - self._ends[0]) / len(self._ends)
        return (self.clips_total - self.clips_done) * pace_s
