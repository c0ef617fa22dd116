"""Ask the demo model about drawn scenes through the whole pipeline: MP4 files, probe, plan, decode, Serve."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deployments.contracts import FrameBatch, ModelInfo
from deployments.vision.client import VisionClient
from deployments.vision.demo.drawing import render
from deployments.vision.demo.layout import Mix, sample_spec
from deployments.vision.demo.scenes import SceneSpec
from deployments.vision.demo.video import write_scenes
from pipelines.chain import decoded_clips, split_runs
from pipelines.describe import Clips, DescribeOptions
from pipelines.outcome import ClipOutcome, DecodedClip
from pipelines.plan import SamplingOptions, plan_clips
from pipelines.sandbox import Sandbox
from pipelines.source import inspect_source

FILE_FPS = 2
"""Frames a second of the files: every moment that is sampled, and one between; drawing them takes most of the time."""
_IN_FLIGHT_CLIPS = 16


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of video file: (width, height) `size`, H.264's quality factor `crf`, scenes of `scene_s` seconds.

    Each scene is one clip of `frames` frames.
    """

    size: tuple[int, int]
    crf: int
    scene_s: float
    frames: int


FORMATS = (
    Format((640, 360), crf=23, scene_s=8.0, frames=8),
    Format((854, 480), crf=30, scene_s=4.0, frames=4),
    Format((480, 360), crf=20, scene_s=10.0, frames=10),
    Format((360, 360), crf=26, scene_s=6.0, frames=4),
    Format((360, 640), crf=23, scene_s=5.0, frames=5),
)


@dataclass(frozen=True, slots=True)
class Film:
    """A written file of scenes, one after the other, each a clip of the format's length."""

    path: Path
    form: Format
    scenes: tuple[SceneSpec, ...]

    @property
    def times_s(self) -> list[float]:
        """The moments of a scene that its clip samples."""
        return [place * self.form.scene_s / self.form.frames for place in range(self.form.frames)]

    def clips(self, model: ModelInfo) -> Iterator[FrameBatch]:
        """Draw the same scenes at the planned moments, straight at the size that the model takes."""
        size = model.frame_spec.target_size(*self.form.size)
        for scene in self.scenes:
            yield FrameBatch(render(scene, self.times_s, *size), np.array(self.times_s))


def write_film(folder: Path, form: Format, count: int, mix: Mix, seed: int, combinations: str = "held_out") -> Film:
    """Draw `count` scenes, by default of combinations never trained on, and write them as a file in `folder`."""
    rng = np.random.default_rng([seed, *form.size])
    aspect = form.size[0] / form.size[1]
    scenes = tuple(
        sample_spec(rng, duration_s=form.scene_s, aspect=aspect, mix=mix, combinations=combinations)
        for _ in range(count)
    )
    path = folder / f"{seed}-{form.size[0]}x{form.size[1]}.mp4"
    write_scenes(path, scenes, fps=FILE_FPS, size=form.size, crf=form.crf)
    return Film(path, form, scenes)


async def ask(film: Film, prompts: Sequence[Sequence[str]], model: ModelInfo, client: VisionClient) -> list[list[str]]:
    """Return the running model's answers to each scene's prompts, by the way that an analysis takes.

    Raises RuntimeError when a clip gets no answer, or frames of other moments than planned.
    """
    with Sandbox() as sandbox:
        source = await asyncio.to_thread(inspect_source, str(film.path), sandbox)
    form = film.form
    sampling = SamplingOptions(clip_duration_s=form.scene_s, frames_per_clip=form.frames)
    clips = plan_clips(source.video, sampling, max_frames=model.max_frames)
    size = model.frame_spec.target_size(source.video.width, source.video.height)
    room, asked = asyncio.Semaphore(_IN_FLIGHT_CLIPS), Clips(client)

    async def describe(clip: DecodedClip, prompt: str) -> str:
        try:
            outcome = await asked.describe(clip, DescribeOptions(prompt))
            return _text(outcome, clip.plan.sample_times_s)
        finally:
            room.release()

    answers: dict[int, list[asyncio.Task[str]]] = {}
    async with asyncio.TaskGroup() as group:
        async for clip in decoded_clips(split_runs("film", source, clips, size, "pyav")):
            answers[clip.plan.index] = []
            for prompt in prompts[clip.plan.index]:
                await room.acquire()
                answers[clip.plan.index].append(group.create_task(describe(clip, prompt)))
    return [[task.result() for task in answers[clip.index]] for clip in clips]


def _text(outcome: ClipOutcome, sample_times_s: Sequence[float]) -> str:
    if outcome.text is None or not np.allclose(outcome.pts_s, sample_times_s, atol=0.5 / FILE_FPS):
        raise RuntimeError(f"expected an answer about the frames at {sample_times_s}, got {outcome}")
    return outcome.text
