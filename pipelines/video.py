"""What is known of a video and of the clips cut from it: plain values that cross processes."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

DecoderName = Literal["pyav", "decord"]


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """A video stream as it is shown to people.

    0 s of every time in Vidray is the presentation of the video stream's first frame, `start_pts_s` on the container's
    own clock. `duration_s` runs from there to the end of the last frame that is really in the file. `width` and
    `height` are those of the picture on screen, in pixels: after the sample aspect ratio and after turning it by
    `rotation_deg` (clockwise, 0/90/180/270). `fps` is the mean number of frames per second.
    """

    duration_s: float
    width: int
    height: int
    fps: float
    rotation_deg: int
    codec: str
    has_audio: bool
    start_pts_s: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """One clip to decode and describe: `[start_s, end_s)` and the times whose frames to show the model.

    The frame of a sample time is the one on screen then: the last whose presentation time is not after it.
    """

    index: int
    start_s: float
    end_s: float
    sample_times_s: tuple[float, ...]
