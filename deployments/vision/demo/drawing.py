"""Draw scenes, anti-aliased and noisy."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from deployments.vision.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Clock,
    SceneSpec,
    Shot,
    Thing,
    centre_at,
    clock_text,
    in_sight,
)

Floats = npt.NDArray[np.floating[Any]]


def render(spec: SceneSpec, times_s: Sequence[float], width: int, height: int) -> npt.NDArray[np.uint8]:
    """Draw the scene at the given moments (seconds of scene time). Returns uint8 (len(times_s), height, width, 3)."""
    grounds: dict[Shot, npt.NDArray[np.uint8]] = {}
    frames = np.empty((len(times_s), height, width, 3), np.uint8)
    for frame, time_s in zip(frames, times_s, strict=True):
        shot = spec.shot_at(time_s)
        if shot not in grounds:
            grounds[shot] = _background(shot, width, height).astype(np.uint8)
        frame[...] = grounds[shot]
        for thing in shot.things:
            if in_sight(thing, time_s):
                _draw(frame, thing, centre_at(shot, thing, time_s))
        if spec.clock is not None:
            _draw_clock(frame, spec.clock, spec.clock.reading_s(time_s))
        if spec.noise:
            noise = spec.noise * _noise(shot.seed + round(time_s * 1000), width, height)
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


def _draw_clock(frame: npt.NDArray[np.uint8], clock: Clock, reading_s: int) -> None:
    """Paint the clock's plate and its digits over `frame` uint8 (H, W, 3)."""
    height, width = frame.shape[:2]
    x0, y0, x1, y1 = (round(edge) for edge in clock.box(width, height))
    cover = _plate(clock_text(reading_s), x1 - x0, y1 - y0)
    region = frame[max(y0, 0) : y1, max(x0, 0) : x1]
    ink, paper = (15, 240) if clock.light_plate else (240, 15)
    region[...] = (paper + cover[: region.shape[0], : region.shape[1], None] * (ink - paper)).astype(np.uint8)


@lru_cache(maxsize=4096)
def _plate(text: str, width: int, height: int) -> Floats:
    """Return how much ink covers each pixel of the plate, float32 (height, width) in [0, 1]."""
    image = Image.new("L", (width, height))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(0.92 * height)
    slot = width / 4.75
    # digits have a slot each, so that none moves when its neighbour changes; the colon has half of one
    for place, character in zip((0.65, 1.6, 2.375, 3.15, 4.1), text, strict=True):
        pen.text((place * slot, height / 2), character, 255, font, anchor="mm")
    return np.asarray(image, np.float32) / 255


def _background(shot: Shot, width: int, height: int) -> Floats:
    """Return the shot's background, float32 (H, W, 3); its details follow from the shot's seed."""
    rng = np.random.default_rng([shot.seed, 1])
    side = min(width, height)
    x = (np.arange(width, dtype=np.float32)[None, :] + 0.5) / side
    y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / side
    low, high = rng.uniform(75, 105), rng.uniform(155, 185)
    period = rng.uniform(0.18, 0.28)
    angle = rng.choice([0.0, math.pi / 2, math.pi / 4, -math.pi / 4])
    level: Floats
    if shot.background in ("dark", "starry"):
        level = np.full((height, width), rng.uniform(18, 42), np.float32)
    elif shot.background == "light":
        level = np.full((height, width), rng.uniform(200, 232), np.float32)
    elif shot.background == "gradient":
        ramp = y * side / height if rng.random() < 0.5 else x * side / width
        level = 45 + 165 * (ramp if rng.random() < 0.5 else 1 - ramp) * np.ones((height, width), np.float32)
    elif shot.background == "striped":
        wave = np.sin((math.cos(angle) * x + math.sin(angle) * y) * (2 * math.pi / period))
        level = low + (high - low) * np.clip(wave * period * side / 6 + 0.5, 0, 1)
    elif shot.background == "chequered":
        wave = np.sin(x * (2 * math.pi / period)) * np.sin(y * (2 * math.pi / period))
        level = low + (high - low) * np.clip(wave * period * side / 6 + 0.5, 0, 1)
    else:
        raise ValueError(f"background must be one of {', '.join(BACKGROUNDS)}, got {shot.background}")
    tint = rng.uniform(-8, 8, 3).astype(np.float32)
    ground: Floats = np.clip(level[..., None] + tint, 0, 255).astype(np.float32)
    if shot.background == "starry":
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
