"""Make small videos whose every frame says its own number, and ways to damage them."""

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame

os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 would print a banner for every file

Picture = npt.NDArray[np.uint8]

CELLS = 4
INDEX_BITS = CELLS * CELLS - 4
ENCODERS = {"h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
FAST: Mapping[str, Mapping[str, str]] = {
    "h264": {"preset": "veryfast", "crf": "18"},
    "hevc": {"preset": "ultrafast", "crf": "20", "x265-params": "log-level=none"},
    "vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"},
    "av1": {"preset": "8", "crf": "8"},
    "mpeg4": {"qscale": "3"},
}


def write_video(
    path: Path,
    *,
    codec: str = "h264",
    size: tuple[int, int] = (96, 64),
    frames: int = 60,
    fps: int = 25,
    times_ms: Sequence[int] | None = None,
    start_ms: int = 0,
    rotation_deg: int = 0,
    sample_aspect: Fraction | None = None,
    pix_fmt: str = "yuv420p",
    audio: bool = False,
    first_index: int = 0,
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    pictures: Sequence[Picture] | None = None,
) -> Path:
    """Write a video of numbered frames (or of `pictures`) and return its path.

    `times_ms` are the frames' times for a variable rate; `rotation_deg` is the clockwise turn that players apply;
    `options` go to the encoder on top of fast defaults.
    """
    width, height = size
    with av.open(str(path), "w", container_options=dict(container_options or {})) as container:
        stream: Any = container.add_stream(
            ENCODERS.get(codec, codec), rate=fps, options={**FAST.get(codec, {}), **(options or {})}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        tick = Fraction(1, fps) if times_ms is None and not start_ms else Fraction(1, 1000)
        stream.codec_context.time_base = tick
        if sample_aspect is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect
        if rotation_deg:
            stream.set_display_rotation(-rotation_deg)
        sound: Any = container.add_stream("aac", rate=48_000, layout="mono") if audio else None
        count = len(pictures) if pictures is not None else len(times_ms) if times_ms is not None else frames
        for number in range(count):
            picture = numbered(first_index + number, size) if pictures is None else pictures[number]
            frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            time_s = Fraction(times_ms[number], 1000) if times_ms is not None else Fraction(number, fps)
            frame.pts, frame.time_base = round((time_s + Fraction(start_ms, 1000)) / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            for chunk in range(count * 48_000 // fps // 1024 + 1):
                silence = AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                silence.sample_rate, silence.pts = 48_000, chunk * 1024
                container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """Write one second of silence without any picture."""
    with av.open(str(path), "w") as container:
        sound: Any = container.add_stream("aac", rate=48_000, layout="mono")
        for chunk in range(48):
            silence = AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 48_000, chunk * 1024
            container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    return path


def numbered(index: int, size: tuple[int, int]) -> Picture:
    """Return an RGB picture of `size` (w, h) that shows `index` as 4x4 black and white cells.

    Of the corners only the top left one is white, so that a turned picture cannot be mistaken.
    """
    cells = np.zeros(CELLS * CELLS, np.uint8)
    cells[0] = 1
    for bit, cell in enumerate(_index_cells()):
        cells[cell] = index >> bit & 1
    width, height = size
    rows, columns = np.arange(height) * CELLS // height, np.arange(width) * CELLS // width
    grey = cells.reshape(CELLS, CELLS)[rows][:, columns] * 219 + 16
    return np.repeat(grey[:, :, None], 3, axis=2).astype(np.uint8)


def noisy(index: int, size: tuple[int, int]) -> Picture:
    """Return a numbered picture under noise, which takes an encoder some kilobytes."""
    noise = np.random.default_rng(index).integers(-60, 61, (size[1], size[0], 1))
    picture: Picture = np.clip(numbered(index, size) + noise, 0, 255).astype(np.uint8)
    return picture


def read_index(picture: Picture) -> int:
    """Return the number that a picture of any size shows. Raises ValueError when it shows none or is turned."""
    height, width = picture.shape[:2]
    grey = picture.mean(axis=2)
    light = np.array(
        [
            grey[
                int((row + 0.3) * height / CELLS) : max(1, int((row + 0.7) * height / CELLS)),
                int((column + 0.3) * width / CELLS) : max(1, int((column + 0.7) * width / CELLS)),
            ].mean()
            for row in range(CELLS)
            for column in range(CELLS)
        ]
    )
    if np.any((light > 80) & (light < 175)):
        raise ValueError(f"expected black and white cells, got {light.round().tolist()}")
    cells = light > 128
    corners = [cells[0], cells[CELLS - 1], cells[-CELLS], cells[-1]]
    if corners != [True, False, False, False]:
        raise ValueError(f"expected only the top left corner to be white, got {corners}")
    return sum(1 << bit for bit, cell in enumerate(_index_cells()) if cells[cell])


def plain_frames(path: Path) -> list[tuple[float, int]]:
    """Return (seconds after the first frame, number shown) of every frame, by decoding the file from end to end."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        shown = []
        for frame in container.decode(stream):
            assert frame.pts is not None
            picture = frame.to_ndarray(format="rgb24")
            shown.append((frame.pts, read_index(np.rot90(picture, k=round(frame.rotation / 90) % 4))))
        assert stream.time_base is not None
        return [(float((pts - shown[0][0]) * stream.time_base), index) for pts, index in shown]


def truncated(path: Path, share: float, target: Path) -> Path:
    """Write the first `share` of a file's bytes to `target`."""
    content = path.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    return target


def flipped(path: Path, flips: int, seed: int, target: Path, *, begin: float = 0.0, end: float = 1.0) -> Path:
    """Write a file with `flips` bits turned over, all between the shares `begin` and `end` of its length."""
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    random = np.random.default_rng(seed)
    places = random.integers(int(len(content) * begin), int(len(content) * end), flips)
    content[places] ^= (1 << random.integers(0, 8, flips)).astype(np.uint8)
    target.write_bytes(content.tobytes())
    return target


def without_box(path: Path, box: bytes, target: Path) -> Path:
    """Write an mp4 without its first top-level box of that type."""
    content, position = path.read_bytes(), 0
    while position < len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        if content[position + 4 : position + 8] == box:
            target.write_bytes(content[:position] + content[position + length :])
            return target
        position += length
    raise ValueError(f"expected a {box!r} box, got none")


def forged_size(path: Path, size: tuple[int, int], target: Path) -> Path:
    """Write an mp4 whose `avc1` sample entry claims another `size` (w, h) than its stream has."""
    content = bytearray(path.read_bytes())
    at = content.index(b"avc1", content.index(b"stsd")) + 4 + 24
    content[at : at + 4] = size[0].to_bytes(2, "big") + size[1].to_bytes(2, "big")
    target.write_bytes(content)
    return target


def joined(parts: Sequence[Path], target: Path) -> Path:
    """Write MPEG-TS files one behind the other."""
    target.write_bytes(b"".join(part.read_bytes() for part in parts))
    return target


def _index_cells() -> list[int]:
    corners = {0, CELLS - 1, CELLS * (CELLS - 1), CELLS * CELLS - 1}
    return [cell for cell in range(CELLS * CELLS) if cell not in corners]
