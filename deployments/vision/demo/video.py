"""Pass drawn scenes through a real H.264 encoder: as a file, or in memory as the pipeline's decoder would see it."""

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from deployments.vision.demo.drawing import render
from deployments.vision.demo.scenes import SceneSpec

Frames = npt.NDArray[np.uint8]


def write_scenes(
    path: Path, specs: Iterable[SceneSpec], *, fps: int = 25, size: tuple[int, int] = (640, 360), crf: int = 23
) -> None:
    """Write the scenes one after the other as an MP4 (H.264) at `path`; (width, height) `size` must be even."""
    _encode(str(path), (frame for spec in specs for frame in _moments(spec, fps, size)), fps, size, crf, "veryfast")


def recode(frames: Frames, crf: int, size: tuple[int, int]) -> Frames:
    """Encode `frames` uint8 (N, H, W, 3), H and W even, decode them and scale them bicubically to `size`."""
    coded = io.BytesIO()
    _encode(coded, frames, 25, (frames.shape[2], frames.shape[1]), crf, "ultrafast")
    coded.seek(0)
    # One for all frames, and without threads: to set it up takes longer than to scale such a frame.
    scaler = VideoReformatter()
    with av.open(coded, "r") as container:
        decoded = [
            scaler.reformat(frame, *size, "rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
            for frame in container.decode(video=0)
        ]
    return np.stack(decoded)


def _encode(
    target: str | IO[bytes], frames: Iterable[Frames], fps: int, size: tuple[int, int], crf: int, preset: str
) -> None:
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": preset, "crf": str(crf), "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = Fraction(1, fps)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _moments(spec: SceneSpec, fps: int, size: tuple[int, int]) -> Iterator[Frames]:
    """Yield the scene's frames, uint8 (H, W, 3), a second at a time so that few are in memory at once."""
    count = round(spec.duration_s * fps)
    for first in range(0, count, fps):
        yield from render(spec, [index / fps for index in range(first, min(first + fps, count))], *size)
