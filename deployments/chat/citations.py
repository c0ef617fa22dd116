"""How an answer says where something is in a video: `[start-end]`, in minutes and seconds, and what such marks mean.

[0:10-0:20]   [1:02:03-1:02:13]   [0:01.5-0:02]   and, where several videos are talked about, [B 0:10-0:20]
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deployments.chat.contracts import Passage

CLOCK_TIME = r"(?:\d{1,4}:)?\d{1,2}:\d{2}(?:\.\d{1,6})?"
"""A regular expression of what `stamp` writes, and people do."""
MARK = re.compile(rf"\[(?:([A-Z]+) )?({CLOCK_TIME})\s*[-–—]\s*({CLOCK_TIME})\]")
_SLACK_S = 0.01
"""Marks are written to the hundredth of a second."""


@dataclass(frozen=True, slots=True)
class Citation:
    """A clip that an answer names as its source."""

    analysis_id: str
    clip: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Cited:
    """What an answer cites, in its order and each once, and the marks in it that no described clip supports."""

    citations: list[Citation]
    unsupported: list[str]


def mark(start_s: float, end_s: float, label: str = "") -> str:
    """Return the mark of a stretch; `label` is the video's, upper-case letters, where there are several."""
    return f"[{label}{' ' if label else ''}{stamp(start_s)}-{stamp(end_s)}]"


def cited(text: str, passages: Sequence[Passage]) -> Cited:
    """Read the marks of an answer and hold them against the passages that it could cite.

    A mark counts when it is a passage's own, or lies inside the stretch that one passage describes; the citation is
    then that passage's clip. Any other is unsupported.
    """
    citations: dict[Citation, None] = {}
    unsupported: dict[str, None] = {}
    for found in MARK.finditer(text):
        label, start_s, end_s = found[1] or "", seconds_of(found[2]), seconds_of(found[3])
        passage = _support(label, start_s, end_s, passages)
        if passage is None:
            unsupported[found[0]] = None
        else:
            citations[Citation(passage.analysis_id, passage.clip, passage.start_s, passage.end_s)] = None
    return Cited(list(citations), list(unsupported))


def _support(label: str, start_s: float, end_s: float, passages: Iterable[Passage]) -> Passage | None:
    inside = [
        passage
        for passage in passages
        if _label(passage) == label
        and start_s < end_s + _SLACK_S
        and passage.start_s - _SLACK_S <= start_s
        and end_s <= passage.end_s + _SLACK_S
    ]
    # Clips may overlap: the one that the mark fits best.
    return min(inside, key=lambda one: (one.end_s - one.start_s, abs(one.start_s - start_s)), default=None)


def _label(passage: Passage) -> str:
    found = MARK.fullmatch(passage.mark)
    return (found[1] or "") if found else ""


def stamp(seconds: float) -> str:
    """Write a time as minutes and seconds, to the hundredth where it is no whole second."""
    hundredths = round(seconds * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minute = divmod(minutes, 60)
    second, part = divmod(rest, 100)
    fraction = f".{part:02d}".rstrip("0") if part else ""
    return (f"{hours}:{minute:02d}" if hours else f"{minute}") + f":{second:02d}{fraction}"


def seconds_of(stamp: str) -> float:
    """Read a time as `stamp` writes it."""
    seconds = 0.0
    for part in stamp.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
