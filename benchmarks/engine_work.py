"""The models and clips that the engine and its replica are measured on, and the bare engine's way through them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.random_checkpoint import endless_demo, random_model
from deployments.contracts import DescribeRequest, FrameBatch, GenerationOptions
from deployments.settings import MAX_BATCH_CLIPS, VisionSettings
from deployments.vision.engine import Prepared
from deployments.vision.prompts import DEFAULT_PROMPT
from deployments.vision.qwen.engine import TransformersEngine

WIDTH, HEIGHT = 196, 112
FRAMES = (1, 8, 16)
EQUAL_TOKENS, LEAST_TOKENS, MOST_TOKENS = 32, 8, 256
UNDER_WAY = MAX_BATCH_CLIPS
"""Most clips that are under way in the engine, as it is shipped, and in vLLM."""
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint to measure and how much to ask of it."""

    name: str
    checkpoint: Path
    clips: int
    repeats: int

    def settings(self) -> VisionSettings:
        return VisionSettings(checkpoint=str(self.checkpoint.resolve()), dtype="fp32", device="cpu")


def models_to_measure() -> list[Model]:
    return [
        Model("demo", endless_demo(), clips=2 * UNDER_WAY, repeats=3),
        Model("random 0.2B", random_model(), clips=32, repeats=2),
    ]


def clips(count: int, frames: int, *, varying: bool) -> list[DescribeRequest]:
    """Return clips of noise, every run the same; varying lengths are spread evenly over their logarithm."""
    rng = np.random.default_rng([frames, varying])
    lengths = np.exp(rng.uniform(np.log(LEAST_TOKENS), np.log(MOST_TOKENS + 1), count)).astype(int)
    return [
        DescribeRequest(
            FrameBatch(rng.integers(0, 256, (frames, HEIGHT, WIDTH, 3), np.uint8), np.arange(frames, dtype=np.float64)),
            DEFAULT_PROMPT,
            GenerationOptions(max_tokens=int(length) if varying else EQUAL_TOKENS),
        )
        for length in lengths
    ]


def through(engine: TransformersEngine, requests: Sequence[DescribeRequest]) -> list[str]:
    """Return the captions by the bare engine that is kept as full as `UNDER_WAY` allows."""
    waiting = [engine.prepare(request) for request in requests]
    order = {id(one): at for at, one in enumerate(waiting)}
    said = [""] * len(requests)
    under_way = 0
    while waiting or under_way:
        room = UNDER_WAY - under_way
        batch: list[Prepared] = list(waiting[:room])
        if batch:
            engine.start(batch)
            del waiting[:room]
        ended = engine.step()
        under_way += len(batch) - len(ended)
        for one, caption in ended:
            said[order[id(one)]] = caption.text
    return said


def timed(call: Callable[[], Answer]) -> tuple[float, Answer]:
    begun_s = time.perf_counter()
    answer = call()
    return time.perf_counter() - begun_s, answer
