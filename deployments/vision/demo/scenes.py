"""Procedurally drawn scenes: what the demo model is trained on, told about and measured with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

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
MOTIONS: dict[str, tuple[int, int]] = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
"""Direction of travel in image axes (x to the right, y downwards)."""
BACKGROUNDS = ("dark", "light", "striped", "chequered", "gradient", "starry")
"""All nearly grey, so that an object's colour is never its background's."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawn object; `start` and `end` are its centre at the scene's first and last moment, as shares of the frame.

    `radius` is a share of the frame's shorter side, `angle_rad` its tilt, `shade` is added to each RGB channel.
    """

    colour: str
    shape: str
    motion: str
    start: tuple[float, float]
    end: tuple[float, float]
    radius: float
    angle_rad: float = 0.0
    shade: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class SceneSpec:
    """One scene: equal specs give equal pixels. `noise` is the sensor noise's standard deviation in grey levels."""

    background: str
    things: tuple[Thing, ...]
    duration_s: float
    seed: int
    noise: float = 0.0


def held_out(colour: str, shape: str, motion: str) -> bool:
    """Whether this combination is kept out of training (16 of 160), so that naming it takes more than memory."""
    return (list(COLOURS).index(colour) + 3 * SHAPES.index(shape) + 2 * list(MOTIONS).index(motion)) % 10 == 0


def sample_spec(
    rng: np.random.Generator,
    *,
    duration_s: float = 10.0,
    radius: tuple[float, float] = (0.17, 0.26),
    combinations: str = "training",
) -> SceneSpec:
    """Draw a scene of one object at random.

    `combinations` is "training", "held_out" or "all"; the object travels 32-55 % of the frame over `duration_s`.
    """
    while True:
        colour, shape, motion = (str(rng.choice(list(names))) for names in (COLOURS, SHAPES, MOTIONS))
        if combinations == "all" or held_out(colour, shape, motion) == (combinations == "held_out"):
            break
    size = float(rng.uniform(*radius))
    low, high = size + 0.01, 1 - size - 0.01
    centre = rng.uniform(low, high, 2)
    direction = np.array(MOTIONS[motion])
    travel = float(rng.uniform(0.32, min(0.55, high - low))) * direction
    for axis in (0, 1):  # choose a start from which the whole journey stays in the frame
        first = low - min(0.0, travel[axis])
        last = high - max(0.0, travel[axis])
        centre[axis] = rng.uniform(first, last)
    end = centre + travel
    return SceneSpec(
        background=str(rng.choice(BACKGROUNDS)),
        things=(
            Thing(
                colour,
                shape,
                motion,
                (float(centre[0]), float(centre[1])),
                (float(end[0]), float(end[1])),
                size,
                float(rng.uniform(-0.2, 0.2)),
                (int(rng.integers(-14, 15)), int(rng.integers(-14, 15)), int(rng.integers(-14, 15))),
            ),
        ),
        duration_s=duration_s,
        seed=int(rng.integers(2**31)),
        noise=float(rng.uniform(0, 6)),
    )


def truth(spec: SceneSpec, *, single_frame: bool = False) -> str:
    """Say what the scene shows, in the one sentence the model is trained to write.

    A single frame shows no motion, so none is told.
    """
    phrases = []
    for thing in spec.things:
        article = "an" if thing.colour[0] in "aeiou" else "a"
        verb = "stays still" if thing.motion == "still" else f"moves {thing.motion}"
        phrases.append(f"{article} {thing.colour} {thing.shape}" + ("" if single_frame else f" {verb}"))
    sentence = " and ".join(phrases) + f" on a {spec.background} background."
    return sentence[0].upper() + sentence[1:]


def centre_at(spec: SceneSpec, thing: Thing, time_s: float) -> tuple[float, float]:
    """Return the object's centre at `time_s` of scene time, as shares of the frame's width and height."""
    share = min(max(time_s / spec.duration_s, 0.0), 1.0)
    (x0, y0), (x1, y1) = thing.start, thing.end
    return x0 + (x1 - x0) * share, y0 + (y1 - y0) * share


def render(spec: SceneSpec, times_s: Sequence[float], width: int, height: int) -> npt.NDArray[np.uint8]:
    """Draw the scene at the given moments (seconds of scene time). Returns uint8 (len(times_s), height, width, 3)."""
    ground = _background(spec, width, height).astype(np.uint8)
    frames = np.repeat(ground[None], len(times_s), axis=0)
    for frame, time_s in zip(frames, times_s, strict=True):
        for thing in spec.things:
            _draw(frame, thing, centre_at(spec, thing, time_s))
        if spec.noise:
            noise = spec.noise * _noise(spec.seed + round(time_s * 1000), width, height)
            frame[...] = np.clip(frame + noise, 0, 255)
    return frames


def _draw(frame: npt.NDArray[np.uint8], thing: Thing, centre: tuple[float, float]) -> None:
    """Blend the object into `frame` uint8 (H, W, 3), anti-aliased by its distance to the outline."""
    height, width = frame.shape[:2]
    radius = thing.radius * min(width, height)
    cx, cy = centre[0] * width, centre[1] * height
    reach = 1.3 * radius + 2
    x0, x1 = max(0, int(cx - reach)), min(width, int(cx + reach) + 1)
    y0, y1 = max(0, int(cy - reach)), min(height, int(cy + reach) + 1)
    x = np.arange(x0, x1, dtype=np.float32)[None, :] + 0.5 - cx
    y = np.arange(y0, y1, dtype=np.float32)[:, None] + 0.5 - cy
    cos, sin = math.cos(thing.angle_rad), math.sin(thing.angle_rad)
    distance = _distance(thing.shape, cos * x + sin * y, cos * y - sin * x, radius)
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    colour = np.clip(np.array(COLOURS[thing.colour]) + thing.shade, 0, 255).astype(np.float32)
    region = frame[y0:y1, x0:x1]
    region[...] = region + cover * (colour - region)


def _distance(shape: str, x: Floats, y: Floats, radius: float) -> Floats:
    """Return the signed distance in pixels to the outline: negative inside. Radii are set for like areas."""
    if shape == "circle":
        return np.sqrt(x * x + y * y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.88 * radius
    if shape == "triangle":
        sides = [math.cos(a) * x + math.sin(a) * y for a in (math.pi / 2, -math.pi / 6, -5 * math.pi / 6)]
        inside: Floats = np.maximum.reduce(sides) - 0.64 * radius
        return inside
    if shape == "star":
        point, notch, step = 1.25 * radius, 0.52 * radius, math.pi / 5
        angle = np.abs((np.arctan2(x, -y) + step) % (2 * step) - step)
        reach = np.sqrt(x * x + y * y)
        along, across = reach * np.cos(angle), reach * np.sin(angle)
        # the edge runs from the point (point, 0) to the notch; its outward normal gives the distance
        edge_x, edge_y = notch * math.cos(step) - point, notch * math.sin(step)
        distance: Floats = ((along - point) * edge_y - across * edge_x) / math.hypot(edge_x, edge_y)
        return distance
    raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape}")


def _background(spec: SceneSpec, width: int, height: int) -> Floats:
    """Return the scene's background, float32 (H, W, 3); its details follow from the scene's seed."""
    rng = np.random.default_rng([spec.seed, 1])
    side = min(width, height)
    x = (np.arange(width, dtype=np.float32)[None, :] + 0.5) / side
    y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / side
    low, high = rng.uniform(75, 105), rng.uniform(155, 185)
    period = rng.uniform(0.18, 0.28)
    angle = rng.choice([0.0, math.pi / 2, math.pi / 4, -math.pi / 4])
    level: Floats
    if spec.background in ("dark", "starry"):
        level = np.full((height, width), rng.uniform(18, 42), np.float32)
    elif spec.background == "light":
        level = np.full((height, width), rng.uniform(200, 232), np.float32)
    elif spec.background == "gradient":
        ramp = y * side / height if rng.random() < 0.5 else x * side / width
        level = 45 + 165 * (ramp if rng.random() < 0.5 else 1 - ramp) * np.ones((height, width), np.float32)
    elif spec.background == "striped":
        wave = np.sin((math.cos(angle) * x + math.sin(angle) * y) * (2 * math.pi / period))
        level = low + (high - low) * np.clip(wave * period * side / 6 + 0.5, 0, 1)
    elif spec.background == "chequered":
        wave = np.sin(x * (2 * math.pi / period)) * np.sin(y * (2 * math.pi / period))
        level = low + (high - low) * np.clip(wave * period * side / 6 + 0.5, 0, 1)
    else:
        raise ValueError(f"background must be one of {', '.join(BACKGROUNDS)}, got {spec.background}")
    tint = rng.uniform(-8, 8, 3).astype(np.float32)
    ground: Floats = np.clip(level[..., None] + tint, 0, 255).astype(np.float32)
    if spec.background == "starry":
        for star_x, star_y, size in rng.uniform((0, 0, 0.010), (width / side, height / side, 0.018), (45, 3)):
            _dot(ground, star_x * side, star_y * side, size * side)
    return ground


def _dot(canvas: Floats, cx: float, cy: float, radius: float) -> None:
    """Paint one soft white dot."""
    reach = radius + 1.5
    x0, x1, y0, y1 = max(0, int(cx - reach)), int(cx + reach) + 1, max(0, int(cy - reach)), int(cy + reach) + 1
    region = canvas[y0:y1, x0:x1]
    y, x = np.ogrid[y0 : y0 + region.shape[0], x0 : x0 + region.shape[1]]
    cover = np.clip(radius + 0.5 - np.hypot(x + 0.5 - cx, y + 0.5 - cy), 0, 1)[..., None]
    region += (cover * (235 - region)).astype(np.float32)


@lru_cache(maxsize=1)
def _noise_field() -> Floats:
    return np.random.default_rng(0).standard_normal((512, 512), np.float32)


def _noise(seed: int, width: int, height: int) -> Floats:
    """Return unit noise (H, W, 1) cut from one fixed field, which is much faster than drawing it anew."""
    field = _noise_field()
    reps = (-(-height // 256), -(-width // 256))
    if reps != (1, 1):
        field = np.tile(field, reps)
    dy, dx = seed * 7919 % 256, seed * 104729 % 256
    return field[dy : dy + height, dx : dx + width, None]
