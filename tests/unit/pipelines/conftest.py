"""A library of small videos, each made when a test first asks for it."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.sandbox import Sandbox
from tests.videos import joined, noisy, numbered, plain_frames, write_video

Times = list[tuple[float, int]]

VARIABLE_MS = (0, 10, 45, 300, 333, 700, 1500, 1501, 1540, 2500, 2501, 4000)
OPEN_GOP = {"x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0:scenecut=0"}
LONG_GOP = {"x264-params": "keyint=1000:scenecut=0:bframes=3"}
SHORT_GOP = {"x264-params": "keyint=10:scenecut=0:bframes=3"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=20:bframes=0"}

WRITERS: Mapping[str, Mapping[str, Any]] = {
    "h264.mp4": {},
    "h264_short_gop.mp4": {"options": SHORT_GOP},
    "h264_long_gop.mp4": {"options": LONG_GOP, "frames": 150},
    "h264_open_gop.mp4": {"options": OPEN_GOP, "frames": 75},
    "h264_intra_refresh.mp4": {"options": REFRESH, "frames": 100},
    "h264_fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}, "options": SHORT_GOP},
    "h264_index_first.mp4": {"container_options": {"movflags": "faststart"}, "options": SHORT_GOP},
    "h264_sound.mp4": {"audio": True},
    "h264_start.mp4": {"start_ms": 5000},
    "h264_variable.mp4": {"times_ms": VARIABLE_MS},
    "h264_one_frame.mp4": {"frames": 1},
    "h264.mkv": {"options": SHORT_GOP},
    "h264_variable.mkv": {"times_ms": VARIABLE_MS},
    "h264_start.mkv": {"start_ms": 5000},
    "h264.mov": {"options": SHORT_GOP},
    "h264.flv": {"options": SHORT_GOP},
    "h264.ts": {"options": SHORT_GOP},
    "h264_start.ts": {"options": SHORT_GOP, "start_ms": 5000},
    "h264.avi": {"options": SHORT_GOP},
    "h264_odd.mp4": {"size": (67, 51), "pix_fmt": "yuv444p"},
    "hevc.mp4": {"codec": "hevc"},
    "hevc.mkv": {"codec": "hevc"},
    "hevc_10bit.mp4": {"codec": "hevc", "pix_fmt": "yuv420p10le"},
    "hevc_open_gop.mp4": {"codec": "hevc", "options": {"x265-params": "log-level=none:keyint=12:bframes=4:open-gop=1"}},
    "hevc_layers.mp4": {"codec": "hevc", "options": {"x265-params": "log-level=none:temporal-layers=3:bframes=4"}},
    "vp9.webm": {"codec": "vp9"},
    "vp9_hidden_frames.webm": {
        "codec": "vp9",
        "options": {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16", "g": "24"},
    },
    "vp9.mp4": {"codec": "vp9"},
    "vp8.webm": {"codec": "libvpx", "options": {"b": "2000000", "cpu-used": "8", "deadline": "realtime"}},
    "av1.mp4": {"codec": "av1"},
    "av1.webm": {"codec": "av1"},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg4_reordered.mp4": {"codec": "mpeg4", "options": {"bf": "2", "qscale": "2"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4_reordered.avi": {"codec": "mpeg4", "options": {"bf": "2", "qscale": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"bf": "2", "qscale": "2"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2", "qscale": "2"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "wmv2.wmv": {"codec": "wmv2", "options": {"qscale": "2"}},
    **{f"h264_turned_{turn}.mp4": {"rotation_deg": turn} for turn in (90, 180, 270)},
    "h264_wide_pixels.mp4": {"sample_aspect": Fraction(4, 3)},
}
"""Every readable video of the tests by name: the arguments of `write_video`."""


class Library:
    """Videos by name, and the times and numbers of their frames."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._frames: dict[str, Times] = {}

    def path(self, name: str) -> Path:
        return self.made(name, lambda target: _write(target, dict(WRITERS[name])))

    def made(self, name: str, make: Callable[[Path], object]) -> Path:
        """Return the path of a file that `make(path)` writes the first time."""
        path = self._folder / name
        if not path.exists():
            make(path)
        return path

    def frames(self, name: str) -> Times:
        """Return (seconds after the first frame, number shown) of all frames, as a plain decode sees them."""
        if name not in self._frames:
            frames = plain_frames(self.path(name))
            if name == "h264.avi":  # AVI has no presentation times; libav numbers reordered frames wrongly
                frames = [(index / 25, index) for _, index in frames]
            self._frames[name] = frames
        return self._frames[name]


def _write(target: Path, options: dict[str, Any]) -> None:
    turn = options.get("rotation_deg", 0)
    if turn:  # drawn so that it is upright once turned
        size = (64, 96) if turn % 180 else (96, 64)
        options["pictures"] = [np.rot90(numbered(index, size), k=turn // 90) for index in range(60)]
    write_video(target, **options)


def heavy(target: Path) -> None:
    """Write 60 frames of 96x64 under noise, in groups of ten, some 150 kB: the packets are most of the file."""
    options = SHORT_GOP if target.name.endswith(("mp4", "mkv", "ts", "avi", "flv", "mov")) else {"g": "10"}
    codec = "vp9" if target.suffix == ".webm" else "h264"
    container_options = {"movflags": "faststart"} if target.suffix in (".mp4", ".mov") else {}
    pictures = [noisy(index, (96, 64)) for index in range(60)]
    write_video(target, codec=codec, options=options, container_options=container_options, pictures=pictures)


def size_change(target: Path) -> Path:
    """Write an MPEG-TS whose frames are 96x64 for one second and 160x96 for the next."""
    plain = {"bf": "0"}  # reordering would shift the times of the part that begins at 0
    first = write_video(target.with_suffix(".1.ts"), frames=25, options=plain)
    second = write_video(
        target.with_suffix(".2.ts"), frames=25, size=(160, 96), start_ms=1000, first_index=25, options=plain
    )
    return joined([first, second], target)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox
