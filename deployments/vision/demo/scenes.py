"""What a drawn scene is made of: the vocabulary, the specification, and where everything is at a moment."""

from collections.abc import Sequence
from dataclasses import dataclass

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 32, 38),
    "green": (40, 158, 62),
    "blue": (36, 74, 214),
    "yellow": (242, 220, 40),
    "orange": (245, 132, 20),
    "purple": (122, 42, 160),
    "pink": (246, 130, 188),
    "cyan": (40, 208, 222),
}
"""Saturated, so that each stands out from every background; RGB."""
SHAPES = ("circle", "square", "triangle", "star")
SIZES: dict[str, tuple[float, float]] = {"small": (0.115, 0.14), "large": (0.19, 0.24)}
"""The range of radii of each size, as shares of the frame's shorter side."""
MOTIONS: dict[str, tuple[int, int]] = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
"""Direction of travel in image axes (x to the right, y downwards)."""
BACKGROUNDS = ("dark", "light", "striped", "chequered", "gradient", "starry")
"""All nearly grey, so that an object's colour is never its background's."""
CORNERS = ("top left", "top right", "bottom left", "bottom right")
REACH = 1.28
"""An outline's farthest point from its centre, in radii."""
PLATE_ASPECT = 2.3
"""Width of a clock's plate over its height."""
MAX_OBJECTS = 3


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawn object; `start` and `end` are its centre when its shot (or its own stay) begins and ends.

    Centres are shares of the frame's width and height, `radius` is a share of its shorter side, `angle_rad` the tilt,
    `shade` is added to each RGB channel. Between `enters_s` and `leaves_s` (scene time) it is in sight; None: the
    shot's first or last moment.
    """

    colour: str
    shape: str
    size: str
    motion: str
    start: tuple[float, float]
    end: tuple[float, float]
    radius: float
    angle_rad: float = 0.0
    shade: tuple[int, int, int] = (0, 0, 0)
    enters_s: float | None = None
    leaves_s: float | None = None


@dataclass(frozen=True, slots=True)
class Shot:
    """What is seen without a cut over [start_s, end_s) of scene time; `seed` sets the background's details."""

    background: str
    things: tuple[Thing, ...]
    start_s: float
    end_s: float
    seed: int


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock `mm:ss` on a plate in a corner, which reads `starts_s` at scene time 0 and runs in real time.

    `height` (of the plate) and `margin` (to the frame's edges) are shares of the frame's shorter side.
    """

    corner: str
    starts_s: float
    height: float = 0.25
    margin: float = 0.02
    light_plate: bool = False

    def reading_s(self, time_s: float) -> int:
        """Return the whole seconds shown at `time_s` of scene time; it turns over after an hour."""
        return int(self.starts_s + time_s + 1e-6) % 3600

    def box(self, width: float, height: float) -> tuple[float, float, float, float]:
        """Return the plate's left, top, right and bottom in a frame of `width` x `height`."""
        side = min(width, height)
        tall, wide, gap = self.height * side, PLATE_ASPECT * self.height * side, self.margin * side
        x = gap if "left" in self.corner else width - gap - wide
        y = gap if "top" in self.corner else height - gap - tall
        return x, y, x + wide, y + tall


@dataclass(frozen=True, slots=True)
class SceneSpec:
    """One or more shots with hard cuts between them: equal specs give equal pixels.

    `noise` is the sensor noise's standard deviation in grey levels.
    """

    shots: tuple[Shot, ...]
    clock: Clock | None = None
    noise: float = 0.0

    @property
    def duration_s(self) -> float:
        return self.shots[-1].end_s

    def shot_at(self, time_s: float) -> Shot:
        """Return the shot shown at `time_s`; the last one also after its end."""
        return next((shot for shot in reversed(self.shots) if shot.start_s <= time_s), self.shots[0])


def clock_text(reading_s: int) -> str:
    """Write a reading in seconds as `mm:ss`."""
    return f"{reading_s // 60:02}:{reading_s % 60:02}"


def held_out(colour: str, shape: str, motion: str) -> bool:
    """Whether this combination is kept out of training (16 of 160), so that naming it takes more than memory."""
    return (list(COLOURS).index(colour) + 3 * SHAPES.index(shape) + 2 * list(MOTIONS).index(motion)) % 10 == 0


def in_sight(thing: Thing, time_s: float) -> bool:
    """Whether the object is drawn at `time_s`, which must lie in its shot."""
    return (thing.enters_s is None or time_s >= thing.enters_s) and (thing.leaves_s is None or time_s < thing.leaves_s)


def centre_at(shot: Shot, thing: Thing, time_s: float) -> tuple[float, float]:
    """Return the object's centre at `time_s` of scene time, as shares of the frame's width and height."""
    first = shot.start_s if thing.enters_s is None else thing.enters_s
    last = shot.end_s if thing.leaves_s is None else thing.leaves_s
    share = min(max((time_s - first) / (last - first), 0.0), 1.0)
    (x0, y0), (x1, y1) = thing.start, thing.end
    return x0 + (x1 - x0) * share, y0 + (y1 - y0) * share


def left_to_right(shot: Shot, times_s: Sequence[float]) -> list[Thing]:
    """Return the shot's objects that are in sight at any of `times_s`, by where each is first seen."""
    first_x = {}
    for thing in shot.things:
        moments = [time_s for time_s in times_s if in_sight(thing, time_s)]
        if moments:
            first_x[thing] = centre_at(shot, thing, moments[0])[0]
    return sorted(first_x, key=first_x.__getitem__)
