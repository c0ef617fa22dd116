"""Cut a video into clips and choose the times to sample: pure arithmetic, no video is opened."""

import math
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.errors import InvalidOption
from pipelines.video import ClipPlan, VideoInfo

MAX_CLIPS = 200_000
"""More clips than this in one analysis is taken for a mistake: 200,000 clips of 10 s are 23 days of video."""

Seconds = Annotated[float, Field(ge=0.0, le=7 * 24 * 3600, allow_inf_nan=False)]


class SamplingOptions(BaseModel):
    """Which part of the video to look at, in what pieces, and how densely.

    `fps` and `frames_per_clip` exclude each other; with neither, `fps` is 1. With `per="frame"` every sampled frame is
    a clip of its own and the clip options do not apply.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    per: Literal["clip", "frame"] = "clip"
    clip_duration_s: Annotated[float, Field(gt=0.0, le=3600.0)] = 10.0
    clip_overlap_s: Seconds = 0.0
    fps: Annotated[float, Field(gt=0.0, le=240.0)] | None = None
    frames_per_clip: Annotated[int, Field(ge=1, le=4096)] | None = None
    start_s: Seconds = 0.0
    end_s: Seconds | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "SamplingOptions":
        if self.fps is not None and self.frames_per_clip is not None:
            raise ValueError("expected fps or frames_per_clip, got both")
        if self.clip_overlap_s >= self.clip_duration_s:
            raise ValueError(
                f"clip_overlap_s must be below clip_duration_s ({self.clip_duration_s:g}), got {self.clip_overlap_s:g}"
            )
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError(f"end_s must be above start_s ({self.start_s:g}), got {self.end_s:g}")
        if self.per == "frame" and self.frames_per_clip is not None:
            raise ValueError('per="frame" samples by fps, got frames_per_clip')
        return self

    @property
    def sample_interval_s(self) -> float:
        """Seconds between two sampled frames of one clip."""
        if self.frames_per_clip is not None:
            return self.clip_duration_s / self.frames_per_clip
        return 1.0 / (self.fps or 1.0)


class Cut(NamedTuple):
    """So many `clips` that begin `step_s` apart from `begin_s` on, `length_s` long; the last goes on to `end_s`."""

    begin_s: float
    end_s: float
    length_s: float
    step_s: float
    clips: int


def cut_of(video: VideoInfo, options: SamplingOptions, *, max_frames: int) -> Cut:
    """Return where the clips lie without making them: at the same cost for any number. Raises as `plan_clips` does."""
    begin, end = options.start_s, min(options.end_s or math.inf, video.duration_s)
    if begin >= video.duration_s:
        raise InvalidOption(f"start_s must be below the video's duration ({video.duration_s:.3f}), got {begin:g}")
    interval = options.sample_interval_s
    length = interval if options.per == "frame" else options.clip_duration_s
    step = length if options.per == "frame" else options.clip_duration_s - options.clip_overlap_s
    frames = _samples_within(length, interval)
    if frames > max_frames:
        raise InvalidOption(f"a clip must sample at most {max_frames} frames for this model, got {frames}")
    # Clip i >= 1 exists where the clip before it leaves at least `worth` uncovered.
    worth = min(interval, step) / 2
    count = 1 + max(0, math.floor(round((end - begin - length - worth) / step, 9)) + 1)
    if count > MAX_CLIPS:
        raise InvalidOption(f"an analysis must have at most {MAX_CLIPS} clips, got {count}")
    return Cut(begin, end, length, step, count)


def plan_clips(video: VideoInfo, options: SamplingOptions, *, max_frames: int) -> list[ClipPlan]:
    """Return the clips that cover `[start_s, end_s)` of the video, in order, without gaps.

    Sample times are `start + k * sample_interval_s` inside each clip. A last piece shorter than half a sample
    interval is not worth a clip: the clip before it is drawn out to the end instead. Raises InvalidOption when the
    range lies outside the video, a clip would hold more than the model's `max_frames` frames, or there would be over
    MAX_CLIPS.
    """
    begin, end, length, step, count = cut_of(video, options, max_frames=max_frames)
    interval = options.sample_interval_s
    # All clips but the last are of one length.
    offsets = [k * interval for k in range(_samples_within(length, interval))]
    clips = []
    for index in range(count):
        start = begin + index * step
        stop = start + length
        if index == count - 1:
            stop = end
            offsets = offsets[: _samples_within(min(length, stop - start), interval)]
        times = tuple([start + offset for offset in offsets])
        clips.append(ClipPlan(index=index, start_s=round(start, 6), end_s=round(stop, 6), sample_times_s=times))
    return clips


def _samples_within(length_s: float, interval_s: float) -> int:
    return max(1, math.ceil(round(length_s / interval_s, 9)))
