"""The sentences the demo model speaks: what is true of a scene at given moments, and how to read an answer back.

A description has one sentence per object, left to right by where each is first seen, then the background, then the
clock as it reads in the first frame:

    A large red circle moves right. A small blue star appears and stays still. The background is dark. The clock says
    01:23.

An object seen at one moment only has no motion told. With a cut inside, it is "First: <objects and background> Then:
<objects and background> <clock>".
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from deployments.vision.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    SceneSpec,
    Shot,
    Thing,
    clock_text,
    in_sight,
    left_to_right,
)

UNKNOWN = "I don't know."
NO_CLOCK, NO_EVENTS = "There is no clock.", "[]"
STILL, ONE_MOMENT = "It stays still.", "One moment shows no motion."
NUMBERS = ("None.", "One.", "Two.", "Three.")


@dataclass(frozen=True, slots=True)
class Seen:
    """What an answer says of one object; `motion` is None where none is told."""

    size: str
    colour: str
    shape: str
    motion: str | None
    appears: bool
    disappears: bool


@dataclass(frozen=True, slots=True)
class Description:
    """A description taken apart: the objects and the background of each shot, and the clock's reading in seconds."""

    shots: tuple[tuple[tuple[Seen, ...], str], ...]
    clock_s: int | None


def observe(spec: SceneSpec, times_s: Sequence[float]) -> Description:
    """Return what is true of the scene, seen at the strictly increasing moments `times_s` (scene time, seconds)."""
    shots: dict[Shot, list[float]] = {}
    for time_s in times_s:
        shots.setdefault(spec.shot_at(time_s), []).append(time_s)
    return Description(
        tuple(
            (tuple(_seen(thing, times) for thing in left_to_right(shot, times)), shot.background)
            for shot, times in shots.items()
        ),
        None if spec.clock is None else spec.clock.reading_s(times_s[0]),
    )


def _seen(thing: Thing, times_s: Sequence[float]) -> Seen:
    visible = [in_sight(thing, time_s) for time_s in times_s]
    motion = thing.motion if sum(visible) > 1 else None
    return Seen(thing.size, thing.colour, thing.shape, motion, not visible[0], not visible[-1])


def truth(spec: SceneSpec, times_s: Sequence[float]) -> str:
    """Describe the scene as seen at the moments `times_s`: the description the model is trained to write."""
    return write(observe(spec, times_s))


def write(description: Description) -> str:
    """Put a description into words."""
    parts = [
        " ".join([*map(_sentence, things), f"The background is {ground}."]) for things, ground in description.shots
    ]
    text = parts[0] if len(parts) == 1 else "First: " + " Then: ".join(parts)
    return text if description.clock_s is None else f"{text} The clock says {clock_text(description.clock_s)}."


def _sentence(seen: Seen) -> str:
    verbs = [
        *(["appears"] if seen.appears else []),
        *([_verb(seen.motion)] if seen.motion else []),
        *(["disappears"] if seen.disappears else []),
    ]
    said = ", ".join(verbs[:-1]) + " and " + verbs[-1] if len(verbs) > 1 else "".join(verbs)
    return f"A {seen.size} {seen.colour} {seen.shape}{' ' if said else ''}{said}."


def _verb(motion: str) -> str:
    return "stays still" if motion == "still" else f"moves {motion}"


def count(description: Description) -> str:
    """Answer how many objects are seen in a scene without a cut."""
    return NUMBERS[len(description.shots[0][0])]


def background(description: Description) -> str:
    """Answer what the background of a scene without a cut is."""
    return f"{description.shots[0][1].capitalize()}."


def clock(description: Description) -> str:
    """Answer what the clock says."""
    return NO_CLOCK if description.clock_s is None else f"{clock_text(description.clock_s)}."


def shape_of(description: Description, colour: str) -> str:
    """Answer which shape the object of this colour has."""
    seen = next((seen for seen in description.shots[0][0] if seen.colour == colour), None)
    return f"There is no {colour} object." if seen is None else f"{seen.shape.capitalize()}."


def colour_of(description: Description, shape: str) -> str:
    """Answer which colour the one object of this shape has. Raises ValueError when there are several."""
    colours = [seen.colour for seen in description.shots[0][0] if seen.shape == shape]
    if len(colours) > 1:
        raise ValueError(f"at most one {shape} can be asked for, got {len(colours)}")
    return f"{colours[0].capitalize()}." if colours else f"There is no {shape}."


def direction_of(description: Description, colour: str) -> str:
    """Answer where the object of this colour moves."""
    seen = next((seen for seen in description.shots[0][0] if seen.colour == colour), None)
    if seen is None:
        return f"There is no {colour} object."
    if seen.motion is None:
        return ONE_MOMENT
    return STILL if seen.motion == "still" else f"{seen.motion.capitalize()}."


EVENT_KINDS = ("appears", "disappears", "cut")


def events(spec: SceneSpec, times_s: Sequence[float], kinds: Sequence[str] = EVENT_KINDS) -> str:
    """Answer with the events of these kinds as JSON, in the order of their times.

    Each is {"event": "appears" or "disappears", "object": "red circle", "time_s": 3} or {"event": "cut", "time_s": 5};
    `time_s` is the time from the clip's first frame to the first frame that shows the change, in whole seconds.
    """
    rows: list[tuple[float, dict[str, str | int]]] = []
    for before, time_s in pairwise(times_s):
        after_s = time_s - times_s[0]
        shot = spec.shot_at(time_s)
        if spec.shot_at(before) is not shot:
            rows.append((after_s, {"event": "cut", "time_s": round(after_s)}))
            continue
        for thing in left_to_right(shot, times_s):
            if in_sight(thing, time_s) != in_sight(thing, before):
                event = "appears" if in_sight(thing, time_s) else "disappears"
                name = f"{thing.colour} {thing.shape}"
                rows.append((after_s, {"event": event, "object": name, "time_s": round(after_s)}))
    return json.dumps([row for _, row in rows if row["event"] in kinds])


_SEEN = re.compile(
    rf"A ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})((?:,? (?:and )?(?:appears|disappears|stays "
    rf"still|moves (?:{'|'.join(MOTIONS)})))*)\."
)
_GROUND = re.compile(rf"The background is ({'|'.join(BACKGROUNDS)})\.")
_CLOCK = re.compile(r"The clock says ([0-5]\d):([0-5]\d)\.")


def parse(text: str) -> Description | None:
    """Read a description back; None where the text is none. `write(parse(text)) == text` for every true one."""
    reading = _CLOCK.search(text)
    grounds = list(_GROUND.finditer(text))
    if not grounds:
        return None
    shots, first = [], 0
    for ground in grounds:
        found = _SEEN.finditer(text, first, ground.start())
        shots.append((tuple(_read(match) for match in found), ground[1]))
        first = ground.end()
    return Description(tuple(shots), int(reading[1]) * 60 + int(reading[2]) if reading else None)


_SHORT = re.compile(
    "|".join(map(re.escape, (UNKNOWN, NO_CLOCK, STILL, ONE_MOMENT, *NUMBERS)))
    + rf"|(?:{'|'.join(name.capitalize() for name in (*COLOURS, *SHAPES, *BACKGROUNDS, *MOTIONS))})\."
    + rf"|There is no (?:(?:{'|'.join(COLOURS)}) object|{'|'.join(SHAPES)})\.|\d\d:\d\d\."
)


def is_answer(text: str) -> bool:
    """Say whether the model has words for this: a whole description, a list of events or a short answer."""
    said = parse(text)
    return (said is not None and write(said) == text) or read_events(text) is not None or bool(_SHORT.fullmatch(text))


def read_events(text: str) -> list[dict[str, Any]] | None:
    """Read an answer about events back; None where the text is none."""
    try:
        rows = json.loads(text)
    except ValueError:
        return None
    whole = isinstance(rows, list) and all(
        isinstance(row, dict) and row.get("event") in EVENT_KINDS and isinstance(row.get("time_s"), int) for row in rows
    )
    return rows if whole else None


def _read(match: re.Match[str]) -> Seen:
    size, colour, shape, verbs = match.groups()
    motion = "still" if "stays still" in verbs else next((word for word in verbs.split() if word in MOTIONS), None)
    return Seen(size, colour, shape, motion, " appears" in verbs, " disappears" in verbs)
