"""Which of the clips that wait for an engine may begin, and which way is left to those that it has failed on."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deployments.contracts import Caption
from deployments.errors import OutOfMemory
from deployments.vision.budget import MemoryBudget
from deployments.vision.engine import Prepared


@dataclass(slots=True, eq=False)
class Clip:
    """A request on its way: `engine_s` is its share of the engine's time so far; `alone` forbids it company."""

    prepared: Prepared
    since_s: float
    answer: asyncio.Future[Caption]
    alone: bool = False
    ran_out_alone: bool = False
    queue_s: float = 0.0
    engine_s: float = 0.0
    company: int = 1


class WaitingClips:
    """In the order of arrival; what is to be tried again comes first. `budget` says how many fit beside each other."""

    def __init__(self) -> None:
        self.budget = MemoryBudget(None)
        self._clips: deque[Clip] = deque()
        self._most_next: int | None = None

    def __len__(self) -> int:
        return len(self._clips)

    def append(self, clip: Clip) -> None:
        self._clips.append(clip)

    def forget_answered(self) -> None:
        """Let those go whose callers have gone."""
        self._clips = deque(clip for clip in self._clips if not clip.answer.done())

    def take(self, under_way: Sequence[Clip], most_clips: int | None) -> list[Clip]:
        """Take out what may begin beside these, of which there are to be `most_clips` at most in all; None: any number.

        Nothing overtakes: what does not fit yet is not kept waiting by those behind it.
        """
        batch: list[Clip] = []
        most = math.inf if most_clips is None else most_clips - len(under_way)
        if self._most_next is not None:
            most = min(most, self._most_next)
        while self._clips and len(batch) < most:
            together = [*under_way, *batch, self._clips[0]]
            if len(together) > 1 and (any(one.alone for one in together) or not self._fit(together)):
                break
            batch.append(self._clips.popleft())
        return batch

    def begun(self) -> None:
        """Hear that what was taken has begun."""
        self._most_next = None

    def try_again(self, clips: Sequence[Clip], error: Exception, tokens: int, *, company: bool) -> None:
        """Put clips whose call failed back at the head where another way is left; fail them otherwise.

        `tokens` were to be under way in all, `company` says whether of more than one clip. Where they did not fit, the
        budget is lowered and half of them are tried, at last one alone, twice. What fails otherwise, be it by a bug, is
        tried clip by clip, with nothing else under way.
        """
        if isinstance(error, OutOfMemory):
            if company:  # what a lone clip takes says nothing of several
                self.budget.ran_out(tokens)
                self._most_next = max(len(clips) // 2, 1)
                clips[0].alone = len(clips) == 1
                self._put_first(clips)
            elif not clips[0].ran_out_alone:
                # What the engine and its neighbours had to spare is free now.
                clips[0].alone = clips[0].ran_out_alone = True
                self._put_first(clips)
            else:
                fail(clips, error)
        elif company:
            for clip in clips:
                clip.alone = True
            self._put_first(clips)
        else:
            fail(clips, error)

    def fail_all(self, error: BaseException) -> None:
        fail(self._clips, error)
        self._clips.clear()

    def _put_first(self, clips: Sequence[Clip]) -> None:
        self._clips.extendleft(reversed(clips))

    def _fit(self, clips: Sequence[Clip]) -> bool:
        return self.budget.fits(cache_tokens(clips), frames=sum(clip.prepared.frame_count for clip in clips))


def cache_tokens(clips: Sequence[Clip]) -> int:
    """Return what the engine's cache must hold for these: a row for each answer, as long as the longest one."""
    return sum(clip.prepared.rows for clip in clips) * max(clip.prepared.most_tokens for clip in clips)


def charge(clips: Sequence[Clip], begun_s: float) -> None:
    """Share out what an engine's call since `begun_s` has taken, whether it came to anything or not."""
    share_s = (time.perf_counter() - begun_s) / len(clips)
    for clip in clips:
        clip.engine_s += share_s


def fail(clips: Iterable[Clip], error: BaseException) -> None:
    for clip in clips:
        if not clip.answer.done():
            clip.answer.set_exception(error)
