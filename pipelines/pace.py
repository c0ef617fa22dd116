"""The pace at which clips end: what an ETA rests on once some have."""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

MOMENT_S = 0.5
"""Clips that end within so long of each other, as those of one engine call do, end at one moment."""
_MOMENTS = 32
"""The pace is that of the last so many moments: it follows what the cluster does now."""


class Moment(NamedTuple):
    """`clips` that ended together, the first of them at `at_s`."""

    at_s: float
    clips: int


@dataclass(slots=True)
class Moments:
    """The last moments at which clips ended, by any one clock in seconds."""

    _last: deque[Moment] = field(default_factory=lambda: deque(maxlen=_MOMENTS))

    def add(self, at_s: float) -> None:
        """A clip ended."""
        if self._last and at_s - self._last[-1].at_s < MOMENT_S:
            last = self._last.pop()
            self._last.append(last._replace(clips=last.clips + 1))
        else:
            self._last.append(Moment(at_s, 1))

    def copy(self) -> Self:
        return replace(self, _last=self._last.copy())

    @property
    def first_s(self) -> float | None:
        """When the first of the moments was, None before there is one."""
        return self._last[0].at_s if self._last else None

    def clip_s(self, now_s: float) -> float | None:
        """Return the seconds that a clip takes at the present pace, None before a second moment.

        With `n` clips at the moments `1..k` that followed on moment 0, that is `(at_k - at_0) / n`: what came before
        the first moment, as the model's start, is no part of it. Once the next moment is overdue, `(now - at_0) / (n *
        (k + 1) / k)` is more, and that is taken: a pace that falls shows at once.
        """
        k = len(self._last) - 1
        if k < 1:
            return None
        at_0, at_k = self._last[0].at_s, self._last[-1].at_s
        clips = sum(moment.clips for moment in self._last) - self._last[0].clips
        return max((at_k - at_0) / clips, (now_s - at_0) / (clips * (k + 1) / k))
