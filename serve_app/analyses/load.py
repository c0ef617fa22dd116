"""How busy a runner's local model is and whether it answers at all: what says when clips go outside instead.

Two things send a clip outside. A *burst*: more clips wait than `burst_factor` times what the model describes within the
target wait, at the pace that was measured while it had work; it ends when no more wait than it describes in that time,
so that clips do not go to and fro. And a model that is *gone*: a clip failed, and in all the time that it was there the
model answered nobody. Then a single clip is tried now and then, and the first answer ends it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deployments.chat.settings import CloudVisionSettings

logger = logging.getLogger("ray.serve.vidray.runner")

_HALF_LIFE_S = 30.0
"""What was measured so long ago counts half."""
_KNOWN_AFTER_S = 5.0
"""Seconds of answers before the pace is known."""


class Load:
    """Of one model in one runner, which has room for `in_flight_clips`; `clock` is monotonic, in seconds."""

    def __init__(
        self,
        model: str,
        settings: CloudVisionSettings,
        in_flight_clips: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._settings = settings
        # Clips go outside beside a busy model, never instead of one that waits for the decoder.
        self._busy_clips = max(1, in_flight_clips // 2)
        self._clock = clock
        self._answers = 0.0
        self._busy_s = 0.0
        self._at_work = False
        self._seen_s = clock()
        self._hold_until_s = clock()
        self._probe_at_s = clock()
        self.queued = 0
        """Clips of analyses at work that have no outcome yet."""
        self.asked = 0
        """Clips that the local model has been asked for."""
        self.outside = 0
        self.bursting = False
        self.bursts = 0
        """How often a burst has begun."""
        self.gone = asyncio.Event()

    @property
    def clips_per_s(self) -> float:
        """The model's pace while it had work, 0 until it is known.

        What passes before the first answer, while weights are loaded or a replica starts, is no work.
        """
        self._advance()
        return self._answers / self._busy_s if self._busy_s >= _KNOWN_AFTER_S else 0.0

    @contextmanager
    def waiting(self, clips: int) -> Iterator[Callable[[], None]]:
        """Count clips as queued until they have an outcome, of which the function that is given is told one by one."""
        left = [clips]
        self.queued += clips

        def done() -> None:
            left[0] -= 1
            self.queued -= 1
            self._look_at_queue()

        try:
            yield done
        finally:
            self.queued -= left[0]
            self._look_at_queue()

    @contextmanager
    def asking(self) -> Iterator[Callable[[bool], None]]:
        """Count a clip that the model is asked for, and take whether anything was answered in the meantime."""
        self._advance()
        self.asked += 1
        try:
            yield self._answered
        finally:
            self._advance()
            self.asked -= 1
            self._at_work = self._at_work and self.asked > 0

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Count a clip that is outside."""
        self.outside += 1
        try:
            yield
        finally:
            self.outside -= 1

    def failed_outside(self) -> None:
        """Send no more than must go for a while: nobody answers there."""
        self._hold_until_s = self._clock() + self._settings.local_patience_s

    def goes_outside(self) -> bool:
        """Say whether the next clip that may go outside goes there; asked once for each."""
        if self.gone.is_set():
            return not self._is_probe()
        self._look_at_queue()
        return (
            self.bursting
            and self.asked >= self._busy_clips
            and self.outside < self._settings.burst_clips
            and self._clock() >= self._hold_until_s
        )

    def _is_probe(self) -> bool:
        now_s = self._clock()
        if self.asked or now_s < self._probe_at_s:
            return False
        self._probe_at_s = now_s + self._settings.local_patience_s
        return True

    def _look_at_queue(self) -> None:
        factor = self._settings.burst_factor
        capacity = self.clips_per_s * self._settings.burst_wait_s
        if factor is None or not capacity or self.gone.is_set():
            return
        if not self.bursting and self.queued > factor * capacity:
            self.bursting = True
            self.bursts += 1
        elif self.bursting and self.queued <= capacity:
            self.bursting = False
        else:
            return
        fields = {"model": self._model, "queued": self.queued, "clips_per_s": round(self.clips_per_s, 3)}
        logger.info("burst begun" if self.bursting else "burst ended", extra=fields)

    def _answered(self, answered: bool) -> None:
        self._advance()
        if answered:
            if self.gone.is_set():
                self.gone.clear()
                self._answers = self._busy_s = 0.0
                logger.info("local model answers again", extra={"model": self._model})
            if self._at_work:
                self._answers += 1
            self._at_work = True
        elif not self.gone.is_set():
            self.gone.set()
            self._at_work = False
            self._probe_at_s = self._clock()
            logger.warning("local model answers nobody", extra={"model": self._model})

    def _advance(self) -> None:
        now_s = self._clock()
        passed_s, self._seen_s = now_s - self._seen_s, now_s
        if self._at_work:
            keep = 0.5 ** (passed_s / _HALF_LIFE_S)
            self._answers *= keep
            self._busy_s = self._busy_s * keep + passed_s
