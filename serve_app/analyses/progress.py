"""Where an analysis stands: what its events say, taken in one after the other."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from pipelines.pace import Moments
from serve_app.analyses.journal import Event

State = Literal["queued", "running", "completed", "partial", "failed", "cancelled"]


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
    coverage: dict[str, Any] | None = None
    """The account of what was and was not seen, once the analysis is done."""
    _attempt_at: float = 0.0
    _expected: dict[str, float] | None = None
    """`begin_s` and `clip_s` by the pace of an earlier analysis; None when there was none."""
    _moments: Moments = field(default_factory=Moments)

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
                self.state, self.attempt = event.data["status"], event.data["attempt"]
                self.coverage = event.data["coverage"]
                self.finished_at = event.at_s

    def copy(self) -> Self:
        """Return the progress as it stands now; what is taken in later does not change it."""
        return replace(self, _moments=self._moments.copy())

    def _take_progress(self, event: Event) -> None:
        data = event.data
        self.state, self.round, self.attempt = data["state"], data["round"], data["attempt"]
        self.clips_total, self.clips_done, self.clips_failed = (
            data["clips_total"],
            data["clips_done"],
            data["clips_failed"],
        )
        self.finished_at = self.coverage = None
        # The time between two attempts is not the pace of either.
        self._moments = Moments()
        self._attempt_at, self._expected = event.at_s, data.get("expected")
        if self.state == "queued":  # a new round
            self.started_at = self.first_caption_at = None
        else:
            self.started_at = self.started_at or event.at_s

    def _take_clip(self, event: Event) -> None:
        self.clips_done += 1
        if "error" in event.data:
            self.clips_failed += 1
        else:
            self.first_caption_at = self.first_caption_at or event.at_s
        if event.data["reused"]:
            return
        self._moments.add(event.at_s)

    @property
    def done(self) -> bool:
        return self.state not in ("queued", "running")

    @property
    def fraction(self) -> float:
        return 0.0 if not self.clips_total else self.clips_done / self.clips_total

    def eta_s(self, now_s: float) -> float | None:
        """Return the seconds until all clips are done at the present pace: 0 once done, None while that is unknown.

        The pace is that of the clips of this attempt that were not reused, described or failed; before a second moment
        at which some ended, that of an earlier analysis.
        """
        if self.done:
            return 0.0
        if self.clips_total is None:
            return None
        left = self.clips_total - self.clips_done
        clip_s = self._moments.clip_s(now_s)
        if clip_s is not None:
            return left * clip_s
        if self._expected is None:
            return None
        first_s = self._moments.first_s
        left_s = left * self._expected["clip_s"]
        if first_s is not None:
            left_s -= now_s - first_s
        else:  # one that takes longer to begin than the last one says nothing of the clips
            left_s += max(0.0, self._attempt_at + self._expected["begin_s"] - now_s)
        return left_s if left_s > 0 else None
