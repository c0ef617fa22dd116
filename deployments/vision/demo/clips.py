"""Sample clips: a random scene, the moments it is looked at, and its pixels as a decoder would deliver them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deployments.contracts import DescribeRequest, FrameBatch
from deployments.vision.demo.answers import Description, observe
from deployments.vision.demo.drawing import render
from deployments.vision.demo.layout import Mix, sample_spec
from deployments.vision.demo.scenes import SceneSpec
from deployments.vision.demo.video import recode

FRAME_SIZES = ((196, 112), (168, 112), (140, 140), (112, 196))
"""What 16:9, 4:3, 1:1 and 9:16 videos are decoded at."""
_SIZE_ODDS = (0.5, 0.2, 0.16, 0.14)
_STRETCHES = (0.87, 1.1)
"""Grids keep the aspect ratio only roughly: a 4:3 film's frames are drawn out to 3:2, that is 0.89."""
_FRAME_COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
_FRAME_ODDS = (0.1, 0.12, 0.06, 0.24, 0.06, 0.1, 0.14, 0.13, 0.03, 0.02)


@dataclass(frozen=True, slots=True)
class Clip:
    """A sampled scene: `times_s` are the frames' moments in scene time, `frames` uint8 (N, H, W, 3)."""

    spec: SceneSpec
    times_s: npt.NDArray[np.float64]
    frames: npt.NDArray[np.uint8]

    @property
    def seen(self) -> Description:
        return observe(self.spec, self.times_s.tolist())

    def request(self, prompt: str) -> DescribeRequest:
        return DescribeRequest(FrameBatch(self.frames, self.times_s), prompt)


def sample_clip(
    rng: np.random.Generator,
    count: int,
    size: tuple[int, int],
    *,
    mix: Mix | None = None,
    combinations: str = "training",
    compressed: float = 0.5,
    shown: int | None = None,
) -> Clip:
    """Draw a random scene and sample `count` evenly spaced frames of (width, height) `size` over all of it.

    The frames are 0.5 to 2.5 s apart; with `shown`, only so many consecutive ones are kept. A share `compressed` of
    the clips is drawn larger, put through H.264 and scaled down bicubically, as happens to a real file.
    """
    seconds_per_frame = float(rng.uniform(0.5, 2.5))
    stretch = float(rng.uniform(*_STRETCHES))
    aspect = size[0] / size[1] * stretch
    spec = sample_spec(rng, duration_s=count * seconds_per_frame, aspect=aspect, mix=mix, combinations=combinations)
    times_s = np.asarray((np.arange(count) + rng.uniform(0, 0.95)) * seconds_per_frame, np.float64)
    if shown is not None:
        first = int(rng.integers(count - shown + 1))
        times_s = times_s[first : first + shown]
    if rng.random() >= compressed:
        return Clip(spec, times_s, render(spec, times_s.tolist(), *size))
    scale = float(rng.uniform(1.2, 2.4))
    large = (round(size[0] * stretch * scale / 2) * 2, round(size[1] * scale / 2) * 2)
    frames = recode(render(spec, times_s.tolist(), *large), int(rng.integers(18, 33)), size)
    return Clip(spec, times_s, frames)


def sample_shape(rng: np.random.Generator) -> tuple[int, tuple[int, int]]:
    """Return a frame count and a frame size (width, height), with the odds that training takes them."""
    return int(rng.choice(_FRAME_COUNTS, p=_FRAME_ODDS)), sample_size(rng)


def sample_size(rng: np.random.Generator) -> tuple[int, int]:
    """Return a frame size (width, height)."""
    return FRAME_SIZES[int(rng.choice(len(FRAME_SIZES), p=_SIZE_ODDS))]
