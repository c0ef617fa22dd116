"""Which packets must be decoded for the frames that are wanted: arithmetic over time stamps, no decoder."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

TOLERANCE_S = Fraction(1, 1000)
"""A frame this little after a sample time still counts as on screen then: containers round times to their ticks."""


@dataclass(frozen=True, slots=True)
class PacketMark:
    """One packet as the demuxer gave it, in ticks; `pts` names its frame, `shown` is False for what is edited out."""

    pts: int
    dts: int | None
    keyframe: bool
    shown: bool = True


@dataclass(frozen=True, slots=True)
class Run:
    """Packets `[start, stop)` in decode order to feed to a decoder; `start` is a keyframe's."""

    start: int
    stop: int


def latest_ticks(times_s: Iterable[float], start_pts: int, time_base: Fraction) -> list[int]:
    """Return for each sample time, in seconds after `start_pts`, the last tick at which its frame may begin."""
    tolerance = min(TOLERANCE_S, time_base / 2)
    return sorted({start_pts + math.floor((Fraction(time_s) + tolerance) / time_base) for time_s in times_s})


def wanted_pts(known: Iterable[int], ticks: Iterable[int]) -> list[int]:
    """Return the presentation times on screen at `ticks`, each once; before the first frame that is the first frame."""
    shown = sorted(set(known))
    return sorted({shown[max(0, bisect_right(shown, tick) - 1)] for tick in ticks}) if shown else []


def entry_points(marks: Sequence[PacketMark], wanted: Iterable[int], back: int = 0) -> dict[int, int]:
    """Return {position of a wanted frame's packet: position of the keyframe to decode it from}.

    That keyframe is the last one, in decode order, that is shown no later than the frame: leading pictures of an open
    GOP follow their keyframe in the file but need the one before it. A frame without any starts at the first packet.
    `back` goes that many keyframes further back, for keyframes that turn out to be none.
    """
    wanted = set(wanted)
    entries: dict[int, int] = {}
    seen: set[int] = set()
    keyframes: list[int] = []
    for position, mark in enumerate(marks):
        if mark.keyframe:
            keyframes.append(position)
        if mark.shown and mark.pts in wanted and mark.pts not in seen:
            seen.add(mark.pts)
            earlier = (k for k in reversed(keyframes) if marks[k].pts <= mark.pts)
            entries[position] = next(islice(earlier, back, None), 0)
    return entries


def runs(entries: dict[int, int]) -> list[Run]:
    """Return the fewest runs of packets, in decode order, that decode every wanted frame from its keyframe on."""
    merged: list[Run] = []
    for start, stop in sorted((entry, position + 1) for position, entry in entries.items()):
        if merged and start <= merged[-1].stop:
            merged[-1] = Run(merged[-1].start, max(stop, merged[-1].stop))
        else:
            merged.append(Run(start, stop))
    return merged


def spans(ticks: Sequence[int], most: int) -> list[Sequence[int]]:
    """Return ascending `ticks` cut into pieces that are each at most `most` ticks long."""
    pieces: list[Sequence[int]] = []
    begin = 0
    for position, tick in enumerate(ticks):
        if tick - ticks[begin] > most:
            pieces.append(ticks[begin:position])
            begin = position
    if ticks:
        pieces.append(ticks[begin:])
    return pieces
