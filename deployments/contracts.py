"""What crosses a process on the way to words: frames or a conversation in, captions out."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from deployments.errors import InvalidOption

MOST_TOKENS = 4096
"""That an engine writes in one answer."""
FinishReason = Literal["stop", "length"]
Speaker = Literal["system", "user", "assistant"]
LOCAL = "local"
"""Who serves what an engine of ours describes; `cloud:` and a model's name is the other."""


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """The sampled frames of one clip: the only pixels that cross a process.

    `frames` is uint8 (N, H, W, 3) in RGB; `pts_s` is float64 (N,), strictly increasing, each frame's true presentation
    time in seconds after the video's first frame. N >= 1.
    """

    frames: npt.NDArray[np.uint8]
    pts_s: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        frames, pts_s = self.frames, self.pts_s
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
            raise TypeError(f"frames must be uint8 (N, H, W, 3), got {frames.dtype} {frames.shape}")
        if pts_s.dtype != np.float64 or pts_s.shape != frames.shape[:1]:
            raise TypeError(f"pts_s must be float64 ({frames.shape[0]},), got {pts_s.dtype} {pts_s.shape}")
        if not np.all(np.isfinite(pts_s)) or np.any(np.diff(pts_s) <= 0):
            raise ValueError(f"pts_s must be finite and strictly increasing, got {pts_s.tolist()}")

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def seconds_per_frame(self) -> float:
        """Mean spacing of the frames in seconds; 1.0 for a single frame, which has no spacing."""
        if len(self.pts_s) < 2:
            return 1.0
        return float((self.pts_s[-1] - self.pts_s[0]) / (len(self.pts_s) - 1))


class GenerationOptions(BaseModel):
    """How the model writes: greedy unless `temperature` is above 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 128
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about frames, and the bounds of the answer."""

    prompt: str
    options: GenerationOptions = field(default_factory=GenerationOptions)


@dataclass(frozen=True, slots=True)
class DescribeRequest:
    """One clip to caption; `also` are further questions about it, so that its frames are sent and read once."""

    frames: FrameBatch
    prompt: str
    options: GenerationOptions = field(default_factory=GenerationOptions)
    also: tuple[Question, ...] = ()

    @property
    def questions(self) -> tuple[Question, ...]:
        return (Question(self.prompt, self.options), *self.also)

    def apart(self) -> list["DescribeRequest"]:
        """Return a request for each question."""
        return [DescribeRequest(self.frames, one.prompt, one.options) for one in self.questions]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side of a conversation said."""

    by: Speaker
    text: str


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A conversation to go on with, about no pixels: its last turn is the user's."""

    turns: tuple[Turn, ...]
    options: GenerationOptions = field(default_factory=GenerationOptions)


EngineRequest = DescribeRequest | TextRequest


@dataclass(frozen=True, slots=True)
class Caption:
    """What the model said about one clip, or to a conversation.

    `engine_s` is the clip's share of the engine call that made it (wall seconds / clips in the call), so that the sum
    over clips is device time. `queue_s` is the wait inside the replica before that call began. Both are filled by the
    deployment; an engine leaves them at 0. `served_by` says who looked, `usd` what that cost, None where no price is
    known. `also` are the answers to the request's further questions, in their order; written side by side with this
    one, they take no time of their own.
    """

    text: str
    prompt_tokens: int
    output_tokens: int
    finish_reason: FinishReason
    engine_s: float = 0.0
    queue_s: float = 0.0
    batch_clips: int = 1
    served_by: str = LOCAL
    usd: float | None = 0.0
    also: tuple["Caption", ...] = ()

    @property
    def answers(self) -> tuple["Caption", ...]:
        """This answer and the further ones."""
        return (self, *self.also)


@dataclass(frozen=True, slots=True)
class FrameSpec:
    """The frame sizes an engine takes: both sides a multiple of `multiple`, area within [min_pixels, max_pixels]."""

    multiple: int
    min_pixels: int
    max_pixels: int

    def target_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) to decode a `width` x `height` video at.

        Follows `smart_resize` of Qwen2-VL (arXiv:2409.12191): keep the aspect ratio as well as the grid allows. Raises
        InvalidOption when one side is over 200 times the other, which the model was never meant for.
        """
        if max(width, height) > 200 * min(width, height):
            raise InvalidOption(f"frame sides must be within a ratio of 200, got {width}x{height}")
        step = self.multiple
        grid_w, grid_h = max(step, round(width / step) * step), max(step, round(height / step) * step)
        if grid_w * grid_h > self.max_pixels:
            shrink = math.sqrt(width * height / self.max_pixels)
            grid_w = max(step, math.floor(width / shrink / step) * step)
            grid_h = max(step, math.floor(height / shrink / step) * step)
        elif grid_w * grid_h < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (width * height))
            grid_w = math.ceil(width * grow / step) * step
            grid_h = math.ceil(height * grow / step) * step
        return grid_w, grid_h


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a caller must know of a model before it sends frames; available before the weights are loaded.

    `revision` names the checkpoint and the engine settings as configured; weights that move behind the same name (a hub
    branch, an overwritten directory) it cannot tell apart. `notice` is what
    people must be told wherever the model's words are shown. `choice` says why `auto` took this one.
    """

    name: str
    engine: str
    revision: str
    frame_spec: FrameSpec
    max_frames: int
    notice: str | None = None
    choice: str | None = None
