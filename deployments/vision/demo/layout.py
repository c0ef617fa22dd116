"""Draw scenes at random: which objects, where they move, what happens to them."""

from dataclasses import dataclass, replace

import numpy as np

from deployments.vision.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    CORNERS,
    MOTIONS,
    REACH,
    SHAPES,
    SIZES,
    Clock,
    SceneSpec,
    Shot,
    Thing,
    held_out,
)

_EDGE, _GAP = 0.03, 0.06
"""The least room beside the frame's edge and between two objects' columns, in shorter sides."""
ASPECT_FOR_THREE = 1.3
"""Narrower frames have no room for three objects side by side."""
_TRAVEL = (0.22, 0.6)
"""How far a moving object goes while it is in sight, in shorter sides."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How hard the drawn scenes are: odds of 1, 2, 3 objects, and shares of objects or scenes with each trait."""

    objects: tuple[float, float, float] = (0.4, 0.35, 0.25)
    small: float = 0.5
    clock: float = 0.4
    events: float = 0.25
    cut: float = 0.12


def sample_spec(
    rng: np.random.Generator,
    *,
    duration_s: float = 10.0,
    aspect: float = 7 / 4,
    mix: Mix | None = None,
    combinations: str = "training",
) -> SceneSpec:
    """Draw a scene for frames of `aspect` (width / height).

    `combinations` of colour, shape and motion are "training", "held_out" or "all". Scenes with a cut have two shots of
    at most two objects and no events.
    """
    mix = mix or Mix()
    clock = None
    if rng.random() < mix.clock:
        clock = Clock(
            corner=str(rng.choice(CORNERS)),
            starts_s=float(rng.uniform(0, 3600)),
            height=float(rng.uniform(0.24, 0.27)),
            margin=float(rng.uniform(0.0, 0.03)),
            light_plate=bool(rng.random() < 0.5),
        )
    noise = float(rng.uniform(0, 6))
    if rng.random() >= mix.cut:
        events = rng.random() < mix.events
        shot = _sample_shot(rng, (0.0, duration_s), aspect, mix.objects, mix.small, clock, combinations)
        return SceneSpec((_with_events(rng, shot) if events else shot,), clock, noise)
    cut_s = float(rng.uniform(0.35, 0.65)) * duration_s
    odds = (mix.objects[0] + mix.objects[2], mix.objects[1], 0.0)
    shots = tuple(
        _sample_shot(rng, span, aspect, odds, mix.small, clock, combinations)
        for span in ((0.0, cut_s), (cut_s, duration_s))
    )
    return SceneSpec(shots, clock, noise)


def _sample_shot(
    rng: np.random.Generator,
    span_s: tuple[float, float],
    aspect: float,
    odds: tuple[float, float, float],
    small: float,
    clock: Clock | None,
    combinations: str,
) -> Shot:
    """Draw one shot over `span_s`; what does not fit is drawn again, with as many objects."""
    count = min(1 + int(rng.choice(3, p=np.divide(odds, sum(odds)))), 3 if aspect >= ASPECT_FOR_THREE else 2)
    while True:
        names = [_sample_names(rng, combinations) for _ in range(count)]
        sizes = ["small" if rng.random() < small else "large" for _ in range(count)]
        if len({colour for colour, _, _ in names}) < count:
            continue
        things = _place(rng, names, sizes, aspect, clock)
        if things:
            return Shot(str(rng.choice(BACKGROUNDS)), things, *span_s, seed=int(rng.integers(2**31)))


def _sample_names(rng: np.random.Generator, combinations: str) -> tuple[str, str, str]:
    while True:
        colour, shape, motion = (str(rng.choice(list(names))) for names in (COLOURS, SHAPES, MOTIONS))
        if combinations == "all" or held_out(colour, shape, motion) == (combinations == "held_out"):
            return colour, shape, motion


def _place(
    rng: np.random.Generator, names: list[tuple[str, str, str]], sizes: list[str], aspect: float, clock: Clock | None
) -> tuple[Thing, ...]:
    """Give each object a column of its own, which it never leaves, so that left to right is plain at every moment.

    Returns nothing where there is no room. Lengths are in shorter sides here.
    """
    width, height = max(aspect, 1.0), max(1 / aspect, 1.0)
    radii = [float(rng.uniform(*SIZES[size])) for size in sizes]
    needs = [
        2 * REACH * radius + (_TRAVEL[0] if MOTIONS[motion][0] else 0.0)
        for radius, (_, _, motion) in zip(radii, names, strict=True)
    ]
    spare = width - 2 * _EDGE - _GAP * (len(names) - 1) - sum(needs)
    if spare < 0:
        return ()
    shares = rng.dirichlet([1.0] * (len(names) + 1))[:-1] * spare
    left, things = _EDGE + float(rng.uniform(0, spare - shares.sum() + 1e-9)), []
    for (colour, shape, motion), size, radius, need, share in zip(names, sizes, radii, needs, shares, strict=True):
        right, reach, (dx, dy) = left + need + float(share), REACH * radius, MOTIONS[motion]
        low_x, high_x = left + reach, right - reach
        x, travel_x = _leg(rng, low_x, high_x, dx)
        low_y, high_y = _EDGE + reach, height - _EDGE - reach
        if clock is not None:
            x0, y0, x1, y1 = clock.box(width, height)
            if min(x, x + travel_x) - reach < x1 + 0.02 and max(x, x + travel_x) + reach > x0 - 0.02:
                low_y, high_y = (y1 + 0.02 + reach, high_y) if "top" in clock.corner else (low_y, y0 - 0.02 - reach)
        if high_y - low_y < (_TRAVEL[0] if dy else 0.0):
            return ()
        y, travel_y = _leg(rng, low_y, high_y, dy)
        start = (x / width, y / height)
        end = ((x + travel_x) / width, (y + travel_y) / height)
        angle, shade = float(rng.uniform(-0.2, 0.2)), tuple(int(s) for s in rng.integers(-14, 15, 3))
        things.append(Thing(colour, shape, size, motion, start, end, radius, angle, (shade[0], shade[1], shade[2])))
        left = right + _GAP
    order = rng.permutation(len(things))
    return tuple(things[place] for place in order)


def _leg(rng: np.random.Generator, low: float, high: float, direction: int) -> tuple[float, float]:
    """Return a start within [low, high] and a signed travel that stays within it."""
    if not direction:
        return float(rng.uniform(low, high)), 0.0
    travel = float(rng.uniform(_TRAVEL[0], min(_TRAVEL[1], high - low)))
    first = float(rng.uniform(low, high - travel))
    return (first, travel) if direction > 0 else (first + travel, -travel)


def _with_events(rng: np.random.Generator, shot: Shot) -> Shot:
    """Let one or more of the objects appear or disappear in the shot's middle part."""
    chosen = rng.random(len(shot.things)) < 0.4
    chosen[rng.integers(len(chosen))] = True
    things = []
    for thing, changes in zip(shot.things, chosen, strict=True):
        time_s = shot.start_s + float(rng.uniform(0.3, 0.7)) * (shot.end_s - shot.start_s)
        if changes:
            thing = replace(thing, enters_s=time_s) if rng.random() < 0.5 else replace(thing, leaves_s=time_s)
        things.append(thing)
    return replace(shot, things=tuple(things))
