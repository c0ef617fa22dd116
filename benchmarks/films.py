"""Real video files for the benchmarks, made once and kept in build/films."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FILMS = Path("build/films")
_LOOP_FRAMES = 250


def write_film(name: str, *, width: int, height: int, duration_s: float, frames_per_s: int = 25) -> Path:
    """Return the path of an H.264 MP4 of moving, grainy shapes; encoded the first time it is asked for.

    Ten seconds are encoded (x264's default group of pictures of up to 250 frames, with B-frames) and their packets
    repeated with later times, so that hours cost seconds and the decoder's work is that of a real file.
    """
    path = FILMS / f"{name}.mp4"
    if path.exists():
        return path
    FILMS.mkdir(parents=True, exist_ok=True)
    loop, partial = FILMS / f"{name}.loop.mp4", FILMS / f"{name}.partial.mp4"
    _encode_loop(loop, width, height, frames_per_s)
    _repeat(loop, partial, round(duration_s * frames_per_s / _LOOP_FRAMES), frames_per_s)
    loop.unlink()
    partial.rename(path)
    return path


def _encode_loop(path: Path, width: int, height: int, frames_per_s: int) -> None:
    rng = np.random.default_rng(0)
    grain = rng.integers(-12, 13, (8, height, width, 3), dtype=np.int16)
    y, x = np.mgrid[0:height, 0:width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=frames_per_s, options={"preset": "veryfast", "crf": "26"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(_LOOP_FRAMES):
            turn = 2 * np.pi * number / _LOOP_FRAMES
            waves = np.stack([128 + 90 * np.sin(x / 40 + y / (25 + 9 * c) + turn * (c + 1)) for c in range(3)], axis=-1)
            cx, cy = width * (0.5 + 0.35 * np.cos(turn)), height * (0.5 + 0.35 * np.sin(turn))
            waves[(x - cx) ** 2 + (y - cy) ** 2 < (height / 6) ** 2] = (230, 60, 40)
            pixels = np.clip(waves + grain[number % len(grain)], 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, frames_per_s)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _repeat(loop: Path, path: Path, times: int, frames_per_s: int) -> None:
    with av.open(str(path), "w") as target:
        copy = None
        for turn in range(times):
            with av.open(str(loop)) as source:
                video = source.streams.video[0]
                copy = copy or target.add_stream_from_template(video)
                length = round(_LOOP_FRAMES / frames_per_s / float(video.time_base or 1))
                for packet in source.demux(video):
                    if packet.pts is None or packet.dts is None:
                        continue
                    packet.pts += turn * length
                    packet.dts += turn * length
                    packet.stream = copy
                    target.mux(packet)
