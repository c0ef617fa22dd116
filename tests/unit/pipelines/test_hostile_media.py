"""Hostile files, through the sandbox: a typed verdict for each, the child's memory bounded, no process hurt."""

import resource
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

from deployments.contracts import FrameBatch
from deployments.errors import AppError, ClipUndecodable, FrameTooLarge, SourceNotFound, UnreadableVideo
from pipelines.sandbox import Sandbox
from pipelines.video import ClipPlan, VideoInfo
from tests.unit.pipelines.conftest import Library, heavy, size_change
from tests.videos import flipped, forged_size, joined, truncated, without_box, write_sound, write_video

SIZE = (28, 28)
FINAL = (UnreadableVideo, FrameTooLarge, SourceNotFound)
CONTAINERS = ("mp4", "mkv", "ts", "avi", "flv", "webm")

Made = Callable[[Path], object]


def judged(sandbox: Sandbox, path: Path) -> VideoInfo | AppError:
    """Probe a file and decode clips all over it; every answer must be of a kind that is meant."""
    try:
        info = sandbox.probe(path)
    except FINAL as error:
        return error
    ends = np.linspace(0, min(info.duration_s, 1e5), 5)
    clips = [
        ClipPlan(index, float(a), float(b), tuple(np.linspace(a, b, 4, endpoint=False).tolist()))
        for index, (a, b) in enumerate(pairwise(ends))
    ]
    for _, outcome in sandbox.decode(path, clips, SIZE):
        assert isinstance(outcome, FrameBatch | ClipUndecodable), repr(outcome)
    child = psutil.Process(sandbox.child_pid)
    assert child.memory_info().rss < 2**30
    assert resource.prlimit(child.pid, resource.RLIMIT_AS)[0] == 2**30
    return info


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("suffix", CONTAINERS)
def test_bit_flips_anywhere(suffix: str, seed: int, library: Library, sandbox: Sandbox, tmp_path: Path) -> None:
    whole = library.made(f"heavy.{suffix}", heavy)
    for flips in (3, 30, 300, 3000):
        judged(sandbox, flipped(whole, flips, seed, tmp_path / f"{flips}.{suffix}"))


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_bit_flips_in_the_header(suffix: str, library: Library, sandbox: Sandbox, tmp_path: Path) -> None:
    whole = library.made(f"heavy.{suffix}", heavy)
    for seed in range(12):
        judged(sandbox, flipped(whole, 6, seed, tmp_path / f"{seed}.{suffix}", end=0.02))


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_truncation_at_every_stage(suffix: str, library: Library, sandbox: Sandbox, tmp_path: Path) -> None:
    whole = library.made(f"heavy.{suffix}", heavy)
    for number in range(1, 20):
        judged(sandbox, truncated(whole, number / 20, tmp_path / f"{number}.{suffix}"))


def large_but_allowed(target: Path) -> None:
    write_video(target, size=(4096, 4096), frames=2, options={"preset": "ultrafast", "crf": "45"})


def too_large(target: Path) -> None:
    write_video(target, size=(8192, 2064), frames=1, options={"preset": "ultrafast", "crf": "45"})


def grows_too_large(target: Path) -> None:
    """Begin with frames of 96x64 and go on with frames of 8192x2064."""
    small = write_video(target.with_suffix(".1.ts"), frames=25, options={"bf": "0"})
    large = write_video(
        target.with_suffix(".2.ts"),
        size=(8192, 2064),
        frames=2,
        start_ms=1000,
        options={"preset": "ultrafast", "crf": "45", "bf": "0"},
    )
    joined([small, large], target)


def negative_times(target: Path) -> None:
    write_video(target, start_ms=-1500, container_options={"avoid_negative_ts": "disabled"}, options={"bf": "0"})


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("size_change.ts", size_change),
        ("grows.ts", grows_too_large),
        ("large.mp4", large_but_allowed),
        ("tiny.mp4", lambda target: write_video(target, size=(2, 2))),
        ("one.mp4", lambda target: write_video(target, frames=1)),
        ("variable.mkv", lambda target: write_video(target, times_ms=[0, 1, 2, 3000, 3001, 90_000])),
        ("negative.mkv", negative_times),
        ("negative.ts", negative_times),
        ("ten_bits.mkv", lambda target: write_video(target, codec="hevc", pix_fmt="yuv420p10le")),
        ("full_chroma.mp4", lambda target: write_video(target, pix_fmt="yuv444p", size=(67, 51))),
        ("turned.mp4", lambda target: write_video(target, rotation_deg=90)),
        ("no_pts.avi", lambda target: write_video(target)),
    ],
)
def test_odd_but_whole_videos_are_read(name: str, make: Made, library: Library, sandbox: Sandbox) -> None:
    assert isinstance(judged(sandbox, library.made(name, make)), VideoInfo)


@pytest.mark.parametrize(
    ("name", "make", "verdict"),
    [
        ("empty.mp4", lambda target: target.write_bytes(b""), UnreadableVideo),
        ("text.mp4", lambda target: target.write_text("not a video\n" * 500), UnreadableVideo),
        ("sound.mp4", write_sound, UnreadableVideo),
        ("folder.mp4", lambda target: target.mkdir(), SourceNotFound),
        ("too_large.mp4", too_large, FrameTooLarge),
    ],
)
def test_what_cannot_be_read_is_refused(
    name: str, make: Made, verdict: type[AppError], library: Library, sandbox: Sandbox
) -> None:
    assert isinstance(judged(sandbox, library.made(name, make)), verdict)


def test_an_index_cut_off_or_forged_is_a_verdict(library: Library, sandbox: Sandbox) -> None:
    whole = library.path("h264.mp4")
    bare = library.made("no_moov.mp4", lambda target: without_box(whole, b"moov", target))
    assert isinstance(judged(sandbox, bare), UnreadableVideo)
    judged(sandbox, library.made("forged_up.mp4", lambda target: forged_size(whole, (8192, 8192), target)))
    hidden = library.made(
        "forged_down.mp4", lambda target: forged_size(library.made("too_large.mp4", too_large), (64, 64), target)
    )
    assert isinstance(judged(sandbox, hidden), FrameTooLarge)


@pytest.mark.parametrize("table", [b"stts", b"stsz", b"stsc", b"stco", b"ctts", b"stss", b"elst"])
def test_forged_sample_tables(table: bytes, library: Library, sandbox: Sandbox, tmp_path: Path) -> None:
    """Entry counts and entries of all ones: sizes, offsets and times in the billions."""
    content = library.path("h264_start.mp4").read_bytes()
    if table not in content:
        content = library.path("h264_sound.mp4").read_bytes()
    at = content.index(table) + 8
    for first, stop in ((0, 4), (4, 12), (4, 40)):
        path = tmp_path / f"{first}_{stop}.mp4"
        path.write_bytes(content[: at + first] + b"\xff" * (stop - first) + content[at + stop :])
        judged(sandbox, path)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_a_playlist_named_mp4_shows_nobodys_frames(decoder: str, library: Library, sandbox: Sandbox) -> None:
    secret = library.path("h264.mp4")
    playlist = secret.parent / "playlist.mp4"
    playlist.write_text(f"ffconcat version 1.0\nfile {secret.name}\n")
    assert isinstance(judged(sandbox, playlist), UnreadableVideo)
    clip = ClipPlan(0, 0.0, 1.0, (0.0,))
    for _, outcome in sandbox.decode(playlist, [clip], SIZE, decoder):  # type: ignore[arg-type]
        assert isinstance(outcome, UnreadableVideo)
