"""Which times of a video a question names: "at 1:05", "between 2:00 and 3:30", "the first minute", "after 90 s"."""

import re

from deployments.chat.citations import CLOCK_TIME, seconds_of

_UNIT = r"(?:seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h)"
_TIME = rf"(?<![\d.])(?:{CLOCK_TIME}|\d{{1,6}}(?:\.\d{{1,6}})?\s?{_UNIT})\b"
_RANGE = re.compile(
    rf"(?:\b(?:between|from)\s+)?({_TIME})\s*(?:-|–|—|to|and|until|till)\s*({_TIME})",
    re.IGNORECASE,
)
_WITHIN = r"\b(?:(?:in|during|within|over)\s+)?(?:the\s+)?"
_EDGE = re.compile(
    rf"{_WITHIN}\b(first|last)\s+(?:(\d{{1,6}}(?:\.\d{{1,6}})?)\s?)?({_UNIT})\b",
    re.IGNORECASE,
)
_SIDE = re.compile(rf"\b(after|since|before|until|till)\s+({_TIME})", re.IGNORECASE)
_NTH_MINUTE = re.compile(rf"{_WITHIN}\bminute\s+(\d{{1,6}})\b", re.IGNORECASE)
_POINT = re.compile(rf"\b(?:at|around|about|near|by|@)\s*({_TIME})|\b({CLOCK_TIME})\b", re.IGNORECASE)
_START = re.compile(r"\b(?:at|in)\s+the\s+(?:very\s+)?(?:beginning|start)\b", re.IGNORECASE)
_END = re.compile(r"\b(?:at|in)\s+the\s+(?:very\s+)?end\b", re.IGNORECASE)
_EDGE_SHARE = 0.1
"""What counts as a video's beginning or end."""

Range = tuple[float, float]


def moments(question: str, duration_s: float) -> list[Range]:
    """Return the ranges in seconds that the question names, in its order; a point in time is a range of no length.

    Each stretch of the question counts once, for the most that it can say: "from 1:00 to 2:00" is no two points.
    """
    found: list[tuple[int, Range]] = []
    left = question
    for pattern, range_of in _READERS:
        for match in pattern.finditer(left):
            start_s, end_s = range_of(match, duration_s)
            if end_s >= start_s:
                found.append((match.start(), (max(0.0, start_s), end_s)))
        left = pattern.sub(lambda match: " " * len(match[0]), left)
    return [one for _, one in sorted(found)]


def without_times(question: str) -> str:
    """Return the question without the times that it names, for one who sees nothing but those moments.

    One that is nothing but a time is returned as it is.
    """
    left = question
    for pattern, _ in _READERS:
        left = pattern.sub(" ", left)
    left = re.sub(r"\s+([?.!,;])", r"\1", " ".join(left.split())).strip(" ,;")
    return left if re.search(r"\w", left) else question


def _between(match: re.Match[str], duration_s: float) -> Range:
    first_s, last_s = _seconds(match[1]), _seconds(match[2])
    return min(first_s, last_s), max(first_s, last_s)


def _edge(match: re.Match[str], duration_s: float) -> Range:
    length_s = _seconds(f"{match[2] or 1}{match[3]}")
    return (0.0, length_s) if match[1].lower() == "first" else (duration_s - length_s, duration_s)


def _side(match: re.Match[str], duration_s: float) -> Range:
    at_s = _seconds(match[2])
    return (at_s, duration_s) if match[1].lower() in ("after", "since") else (0.0, at_s)


def _minute(match: re.Match[str], duration_s: float) -> Range:
    return 60.0 * int(match[1]), 60.0 * int(match[1]) + 60.0


def _point(match: re.Match[str], duration_s: float) -> Range:
    at_s = _seconds(match[1] or match[2])
    return at_s, at_s


_READERS = (
    (_RANGE, _between),
    (_EDGE, _edge),
    (_SIDE, _side),
    (_NTH_MINUTE, _minute),
    (_POINT, _point),
    (_START, lambda _, duration_s: (0.0, _EDGE_SHARE * duration_s)),
    (_END, lambda _, duration_s: ((1 - _EDGE_SHARE) * duration_s, duration_s)),
)


def _seconds(text: str) -> float:
    if ":" in text:
        return seconds_of(text)
    number, unit = re.fullmatch(rf"([\d.]+)\s?({_UNIT})", text, re.IGNORECASE).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1.0, "m": 60.0, "h": 3600.0}[unit[0].lower()]
