"""Both decoders give exactly the frames on screen at the sample times, with their exact times."""

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from deployments.contracts import FrameBatch
from deployments.errors import ClipUndecodable, UnreadableVideo
from pipelines.decode import PyavDecoder, open_decoder
from pipelines.pictures import Pictures
from pipelines.probe import probe
from pipelines.selection import PacketMark
from pipelines.video import ClipPlan, DecoderName
from tests.unit.pipelines.conftest import WRITERS, Library, Times, size_change
from tests.videos import flipped, read_index, truncated, write_video

DECORD_REFUSES = {
    "av1.mp4": "its libav is older than AV1 decoders",
    "av1.webm": "its libav is older than AV1 decoders",
    "h264.ts": "it finds no frame in MPEG-TS",
    "h264_start.ts": "it finds no frame in MPEG-TS",
    "h264_open_gop.mp4": "it loses leading pictures after a seek and counts wrong from there",
    "hevc_open_gop.mp4": "as with h264",
    "h264.avi": "it takes the order of decoding for that of showing",
    "mpeg2.ts": "it gives wrong frames of MPEG-2",
    "mpeg2.mpg": "it gives wrong frames of MPEG-2",
    "mpeg4_reordered.mp4": "it gives wrong frames of reordered MPEG-4",
    "mpeg4_reordered.avi": "it gives wrong frames of reordered MPEG-4",
    "mpeg4.mp4": "as the reordered one; which of the two a file is cannot be known beforehand",
    "mpeg4.avi": "as the reordered one",
    "mjpeg.avi": "AVI is refused as a whole",
    "wmv2.wmv": "it does not read ASF",
}
DECORD_IS_WRONG = {
    "h264_intra_refresh.mp4": "it gives frames before the refresh is complete, and nothing tells it apart"
}
CASES = [pytest.param(name, "pyav", id=f"pyav-{name}") for name in WRITERS] + [
    pytest.param(name, "decord", id=f"decord-{name}")
    for name in WRITERS
    if name not in {*DECORD_REFUSES, *DECORD_IS_WRONG}
]
SIZE = (48, 32)


def clip_at(times_s: Sequence[float], index: int = 0) -> ClipPlan:
    return ClipPlan(index=index, start_s=min(times_s), end_s=max(times_s) + 1, sample_times_s=tuple(times_s))


def on_screen(frames: Times, times_s: Sequence[float]) -> Times:
    """Return the frames shown at those times; a frame that is due within half a millisecond counts as shown."""
    shown = sorted(frames)
    chosen = [[frame for frame in shown if frame[0] <= time_s + 0.0005] or shown[:1] for time_s in times_s]
    return sorted({candidates[-1] for candidates in chosen})


def seen(batch: FrameBatch) -> Times:
    return [(pts_s, read_index(frame)) for pts_s, frame in zip(batch.pts_s.tolist(), batch.frames, strict=True)]


def worthwhile_times(frames: Times) -> list[float]:
    """Return each frame's own time and the middle of its time on screen."""
    times = [time_s for time_s, _ in frames]
    return sorted({*times, *((a + b) / 2 for a, b in pairwise(times) if b - a > 0.01), times[-1] + 0.02})


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_clips_in_order_show_the_frames_on_screen_at_their_exact_times(
    name: str, kind: DecoderName, library: Library
) -> None:
    frames, decoder = library.frames(name), open_decoder(kind, library.path(name))
    end_s = frames[-1][0] + 0.02
    for index in range(4):
        begin_s = index * end_s / 4
        times_s = [begin_s + k * end_s / 16 for k in range(4)]
        assert seen(decoder.decode(clip_at(times_s, index), SIZE)) == on_screen(frames, times_s)
    decoder.close()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_clips_in_any_order_and_density_show_the_frames_on_screen(
    name: str, kind: DecoderName, library: Library
) -> None:
    frames, decoder = library.frames(name), open_decoder(kind, library.path(name))
    dice, worthwhile = random.Random(7), worthwhile_times(frames)
    for _ in range(25 if kind == "pyav" else 6):
        begin = dice.randrange(len(worthwhile))
        some = worthwhile[begin : begin + dice.choice((1, 3, 40))]
        times_s = sorted(dice.sample(some, dice.randint(1, len(some))))
        assert seen(decoder.decode(clip_at(times_s), SIZE)) == on_screen(frames, times_s)
    decoder.close()


@pytest.mark.parametrize("name", WRITERS)
def test_every_frame_alone_in_turn_is_that_frame(name: str, library: Library) -> None:
    frames, decoder = library.frames(name), open_decoder("pyav", library.path(name))
    for index, frame in enumerate(frames):
        assert seen(decoder.decode(clip_at([frame[0]], index), SIZE)) == [frame]
    decoder.close()


@pytest.mark.parametrize("name", DECORD_REFUSES)
def test_decord_refuses_what_it_cannot_decode_right(name: str, library: Library) -> None:
    with pytest.raises(UnreadableVideo, match="decord"):
        open_decoder("decord", library.path(name))


@pytest.mark.parametrize("turn", [90, 180, 270])
@pytest.mark.parametrize("kind", ["pyav", "decord"])
def test_turned_video_comes_upright_at_the_size_on_screen(turn: int, kind: DecoderName, library: Library) -> None:
    decoder = open_decoder(kind, library.path(f"h264_turned_{turn}.mp4"))
    size = (56, 84) if turn % 180 else (84, 56)
    batch = decoder.decode(clip_at([0.0, 1.0]), size)
    assert batch.frames.shape == (2, size[1], size[0], 3)
    assert [read_index(frame) for frame in batch.frames] == [0, 25]
    decoder.close()


@pytest.mark.parametrize("kind", ["pyav", "decord"])
@pytest.mark.parametrize("size", [(28, 28), (24, 48), (252, 140), (500, 333)])
def test_frames_come_contiguous_at_any_size(size: tuple[int, int], kind: DecoderName, library: Library) -> None:
    decoder = open_decoder(kind, library.path("h264.mp4"))
    batch = decoder.decode(clip_at([0.0, 1.0]), size)
    assert batch.frames.shape == (2, size[1], size[0], 3)
    assert batch.frames.flags.c_contiguous
    assert [read_index(frame) for frame in batch.frames] == [0, 25]
    decoder.close()


def test_a_frame_asked_for_by_many_times_comes_once(library: Library) -> None:
    decoder = open_decoder("pyav", library.path("h264_variable.mp4"))
    batch = decoder.decode(clip_at([0.7, 0.8, 0.9, 1.0, 1.4]), SIZE)
    assert seen(batch) == [(0.7, 5)]
    decoder.close()


def test_times_before_the_first_and_after_the_last_frame_show_those(library: Library) -> None:
    decoder = open_decoder("pyav", library.path("h264.mp4"))
    assert seen(decoder.decode(clip_at([-1.0]), SIZE)) == [(0.0, 0)]
    assert seen(decoder.decode(clip_at([99.0]), SIZE)) == [library.frames("h264.mp4")[-1]]
    decoder.close()


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("matrix", "height"), [("bt709", 64), ("smpte170m", 64), (None, 720), (None, 64)])
def test_colours_follow_the_tags_or_else_the_height(
    matrix: str | None, height: int, full_range: bool, library: Library
) -> None:
    """A flat colour, turned into YUV here by the standards' own formulas (BT.709-6 and BT.601-7, item 3)."""
    red, green, blue = 200, 40, 90
    hd = matrix == "bt709" or (matrix is None and height >= 720)
    k_red, k_blue = (0.2126, 0.0722) if hd else (0.299, 0.114)
    luma = k_red * red + (1 - k_red - k_blue) * green + k_blue * blue
    chroma = ((blue - luma) / (2 - 2 * k_blue), (red - luma) / (2 - 2 * k_red))
    yuv = [luma, *(128 + c for c in chroma)]
    if not full_range:
        yuv = [16 + luma * 219 / 255, *(128 + c * 224 / 255 for c in chroma)]
    path = library.made(
        f"colour_{matrix}_{height}_{full_range}.mp4",
        lambda target: write_flat(target, [round(value) for value in yuv], height, matrix, full_range),
    )
    decoder = open_decoder("pyav", path)
    batch = decoder.decode(clip_at([0.0]), (28, 28))
    assert np.abs(batch.frames[0].astype(int) - [red, green, blue]).max() <= 4
    decoder.close()


def write_flat(target: Path, yuv: Sequence[int], height: int, matrix: str | None, full_range: bool) -> None:
    """Write one h264 frame of one colour, tagged or not."""
    tags = [f"fullrange={'on' if full_range else 'off'}"] + ([f"colormatrix={matrix}"] if matrix else [])
    options = {"x264-params": ":".join(tags), "preset": "ultrafast", "crf": "5"}
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, height, "yuv420p"
        frame = av.VideoFrame(96, height, "yuv420p")
        for plane, value in zip(frame.planes, yuv, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_high_bitrate_spans_are_read_twice_and_stay_exact(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.demux.HELD_BYTES", 100)
    frames, decoder = library.frames("h264_short_gop.mp4"), open_decoder("pyav", library.path("h264_short_gop.mp4"))
    for times_s in ([0.0, 0.5, 1.0], [1.5, 2.0], [0.2], [0.24, 0.28, 2.3]):
        assert seen(decoder.decode(clip_at(times_s), SIZE)) == on_screen(frames, times_s)
    decoder.close()


class Pushes(PyavDecoder):
    """Notes each packet that is given to the decoder, and how."""

    def __init__(self, path: Path) -> None:
        self.pushed: list[tuple[int, str]] = []
        super().__init__(path)

    def _push(self, packet: Any, mark: PacketMark, wanted: set[int], found: Pictures) -> None:
        self.pushed.append((mark.pts, self._decoder.skip_frame))
        super()._push(packet, mark, wanted, found)


def test_only_what_wanted_frames_depend_on_is_decoded(library: Library) -> None:
    """One frame of 150, in a group of ten: no more than its group is looked at, and of that no B-frame decoded."""
    options = {"x264-params": "keyint=10:scenecut=0:bframes=3:b-adapt=0:b-pyramid=0"}
    decoder = Pushes(library.made("sparse.mp4", lambda target: write_video(target, frames=150, options=options)))
    assert seen(decoder.decode(clip_at([3.36]), SIZE)) == [(3.36, 84)]
    assert len(decoder.pushed) <= 10
    assert sum(mode == "DEFAULT" for _, mode in decoder.pushed) <= 5
    decoder.close()


def test_a_clip_that_follows_within_a_gop_is_decoded_on(library: Library) -> None:
    decoder, frames = Pushes(library.path("h264_long_gop.mp4")), library.frames("h264_long_gop.mp4")
    for index in range(5):
        times_s = [index + k / 4 for k in range(4)]
        assert seen(decoder.decode(clip_at(times_s, index), SIZE)) == on_screen(frames, times_s)
    pushed = [pts for pts, _ in decoder.pushed]
    assert len(pushed) == len(set(pushed)), "no packet is decoded twice"
    decoder.close()


def test_a_change_of_size_in_the_stream_changes_nothing_outside(library: Library) -> None:
    decoder = open_decoder("pyav", library.made("size_change.ts", size_change))
    batch = decoder.decode(clip_at([0.2, 0.8, 1.2, 1.8]), SIZE)
    assert [read_index(frame) for frame in batch.frames] == [5, 20, 30, 45]
    assert batch.pts_s.tolist() == pytest.approx([0.2, 0.8, 1.2, 1.8], abs=0.001)
    decoder.close()


def test_damaged_frames_are_left_out_and_good_ones_given(library: Library) -> None:
    """Of six groups of ten frames the second and third are broken: the frames of the others come, none is invented."""
    whole = library.path("h264_index_first.mp4")
    path = library.made("holed.mp4", lambda target: flipped(whole, 2000, 1, target, begin=0.64, end=0.76))
    decoder, frames = open_decoder("pyav", path), library.frames("h264_index_first.mp4")
    batch = decoder.decode(clip_at([time_s for time_s, _ in frames]), SIZE)
    assert set(batch.pts_s.tolist()) < {time_s for time_s, _ in frames}
    first = [frame for frame in frames if frame[1] < 10 or frame[1] >= 40]
    intact = dict(zip(batch.pts_s.tolist(), batch.frames, strict=True))
    assert [(time_s, read_index(intact[time_s])) for time_s, _ in first] == first
    decoder.close()


def test_a_clip_behind_the_end_of_a_truncated_file_shows_its_last_frame(library: Library) -> None:
    path = library.made("cut.mkv", lambda target: truncated(library.path("h264.mkv"), 0.5, target))
    decoder = open_decoder("pyav", path)
    duration_s = probe(path).duration_s
    batch = decoder.decode(clip_at([duration_s + 5]), SIZE)
    assert abs(batch.pts_s[0] - duration_s) < 0.2
    decoder.close()


def test_a_clip_without_any_good_frame_is_undecodable(library: Library) -> None:
    path = library.made(
        "ruined.mp4", lambda target: flipped(library.path("h264_index_first.mp4"), 50_000, 1, target, begin=0.62)
    )
    decoder = open_decoder("pyav", path)
    assert seen(decoder.decode(clip_at([0.0]), SIZE)) == [(0.0, 0)]
    with pytest.raises(ClipUndecodable, match="expected frames between"):
        decoder.decode(clip_at([1.48, 1.52]), SIZE)
    decoder.close()
