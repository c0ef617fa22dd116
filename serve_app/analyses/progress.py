"""Where an analysis stands: what its events say, taken in one after the other."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Self

from serve_app.analyses.journal import Event
from serve_app.pace import MOMENT_S

State = Literal["queued", "running", "completed", "partial", "failed", "cancelled"]
_PACE_MOMENTS = 32
"""The pace is that of the last so many moments: it follows what the cluster does now."""


class Moment(NamedTuple):
    """`clips` that ended together, the first of them `at_s` seconds since 1970."""

    at_s: float
    clips: int


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
    _moments: deque[Moment] = field(default_factory=lambda: deque(maxlen=_PACE_MOMENTS))

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
        self._moments.clear()
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
        if self._moments and event.at_s - self._moments[-1].at_s < MOMENT_S:
            last = self._moments.pop()
            self._moments.append(last._replace(clips=last.clips + 1))
        else:
            self._moments.append(Moment(event.at_s, 1))

    @property
    def done(self) -> bool:
        return self.state not in ("queued", "running")

    @property
    def fraction(self) -> float:
        return 0.0 if not self.clips_total else self.clips_done / self.clips_total

    def eta_s(self, now_s: float) -> float | None:
        """Return the seconds until all clips are done at the present pace: 0 once done, None while that is unknown.

        Counted are the clips of this attempt that were not reused, described or failed, at the last moments `0..k` at
        which some ended. With `n` clips at the moments `1..k`, a clip takes `(at_k - at_0) / n`: what came before the
        first moment (the model's start, reused captions) is no part of it, nor is the time between two attempts. Once
        the next moment is overdue, `(now - at_0) / (n * (k + 1) / k)` is more, and that is taken: a pace that falls
        shows at once. Before a second moment, a clip takes as long as the runner expects, from an earlier analysis.
        """
        if self.done:
            return 0.0
        if self.clips_total is None:
            return None
        k = len(self._moments) - 1
        if k < 1:
            return self._expected_eta_s(now_s)
        at_0, at_k = self._moments[0].at_s, self._moments[-1].at_s
        clips = sum(moment.clips for moment in self._moments) - self._moments[0].clips
        clip_s = max((at_k - at_0) / clips, (now_s - at_0) / (clips * (k + 1) / k))
        return (self.clips_total - self.clips_done) * clip_s

    def _expected_eta_s(self, now_s: float) -> float | None:
        """Return what is left of the time that was expected, None once that is over."""
        if self._expected is None or self.clips_total is None:
            return None
        left_s = (self.clips_total - self.clips_done) * self._expected["clip_s"]
        if not self._moments:
            left_s += self._expected["begin_s"] - (now_s - self._attempt_at)
        return left_s if left_s > 0 else None
