"""The probe says what is really in a file, whatever its headers claim."""

import os
from pathlib import Path

import av
import pytest
from av.stream import Disposition

from deployments.errors import AppError, FrameTooLarge, SourceNotFound, UnreadableVideo
from pipelines.plan import SamplingOptions, plan_clips
from pipelines.probe import probe
from tests.unit.pipelines.conftest import VARIABLE_MS, WRITERS, Library, heavy
from tests.videos import forged_size, joined, numbered, truncated, without_box, write_sound, write_video

CODECS = {"libvpx": "vp8", "mpeg2video": "mpeg2video", "mjpeg": "mjpeg", "wmv2": "wmv2"}


@pytest.mark.parametrize("name", WRITERS)
def test_duration_size_rate_and_codec_are_those_of_the_frames(name: str, library: Library) -> None:
    frames, writer = library.frames(name), WRITERS[name]
    info = probe(library.path(name))
    width, height = writer.get("size", (96, 64))
    assert (info.width, info.height) in {(width, height), (height, width), (128, 64)}
    assert info.duration_s == pytest.approx(frames[-1][0] + 0.04, abs=0.045)
    assert info.duration_s > frames[-1][0]
    assert info.fps == pytest.approx(len(frames) / info.duration_s, rel=0.02)
    assert info.codec == CODECS.get(writer.get("codec", "h264"), writer.get("codec", "h264"))
    assert info.has_audio is writer.get("audio", False)


@pytest.mark.parametrize("name", WRITERS)
def test_reading_only_the_tail_of_a_large_file_gives_the_same(name: str, library: Library) -> None:
    """Files are taken for large here; the mean rate of such files may come from the header."""
    whole, tail = probe(library.path(name)), probe(library.path(name), small_file_bytes=0)
    assert tail.duration_s == pytest.approx(whole.duration_s, abs=0.001)
    if "variable" not in name:
        assert tail.fps == pytest.approx(whole.fps, rel=0.05)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotation_is_clockwise_and_turns_the_size(turn: int, library: Library) -> None:
    info = probe(library.path(f"h264_turned_{turn}.mp4"))
    assert info.rotation_deg == turn
    assert (info.width, info.height) == ((64, 96) if turn % 180 else (96, 64))


def test_wide_pixels_make_the_picture_wider(library: Library) -> None:
    info = probe(library.path("h264_wide_pixels.mp4"))
    assert (info.width, info.height) == (128, 64)


@pytest.mark.parametrize("name", ["h264_start.mp4", "h264_start.mkv"])
def test_a_start_above_zero_is_said_and_not_part_of_the_duration(name: str, library: Library) -> None:
    info = probe(library.path(name))
    assert info.start_pts_s == pytest.approx(5.0, abs=0.1)
    assert info.duration_s == pytest.approx(2.4, abs=0.001)


def test_variable_rate_is_its_mean(library: Library) -> None:
    info = probe(library.path("h264_variable.mp4"))
    assert info.duration_s >= VARIABLE_MS[-1] / 1000
    assert info.fps == pytest.approx(len(VARIABLE_MS) / info.duration_s)


@pytest.mark.parametrize("small_file_bytes", [0, 2**26])
@pytest.mark.parametrize("share", [0.5, 0.7])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi", "flv", "webm"])
def test_a_truncated_file_is_as_long_as_what_is_left(
    suffix: str, share: float, small_file_bytes: int, library: Library
) -> None:
    whole = library.made(f"heavy.{suffix}", heavy)
    path = library.made(f"cut_{share}.{suffix}", lambda target: truncated(whole, share, target))
    assert probe(path, small_file_bytes=small_file_bytes).duration_s == pytest.approx(2.4 * share, abs=0.3)


@pytest.mark.parametrize("scale", [0.001, 1000])
def test_a_lying_duration_is_not_believed(scale: float, library: Library) -> None:
    """The mp4's movie, track and media headers claim another duration than their samples have."""
    path = library.made(f"lying_{scale}.mp4", lambda target: _scale_durations(library.path("h264.mp4"), scale, target))
    for small_file_bytes in (0, 2**26):
        assert probe(path, small_file_bytes=small_file_bytes).duration_s == pytest.approx(2.4, abs=0.001)


def _scale_durations(path: Path, scale: float, target: Path) -> None:
    content = bytearray(path.read_bytes())
    for box, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        at = content.index(box) + offset
        claimed = min(2**32 - 2, int(int.from_bytes(content[at : at + 4], "big") * scale))
        content[at : at + 4] = claimed.to_bytes(4, "big")
    target.write_bytes(content)


def test_cover_art_is_not_the_video(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "cover.mp4"
    with av.open(str(library.path("h264_sound.mp4"))) as source, av.open(str(path), "w") as target:
        cover = target.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 320, 320, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        copy = target.add_stream_from_template(source.streams.video[0])
        frame = av.VideoFrame.from_ndarray(numbered(5, (320, 320)), format="rgb24").reformat(format="yuvj420p")
        target.mux(cover.encode(frame))
        target.mux(cover.encode(None))
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    info = probe(path)
    assert (info.width, info.height, info.codec) == (96, 64, "h264")


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"hello\n" * 1000, os.urandom(4096), b"\xff\xd8\xff\xe0" + bytes(4096)]
)
def test_what_is_no_video_is_unreadable_in_one_line_without_the_path(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_bytes(content)
    with pytest.raises(UnreadableVideo) as caught:
        probe(path)
    assert_fit_for_people(caught.value, path)


def assert_fit_for_people(error: AppError, path: Path) -> None:
    assert "expected" in error.message
    assert ", got" in error.message
    assert "\n" not in error.message
    assert str(path.parent) not in error.message
    assert path.name in error.message


def test_sound_alone_is_unreadable(library: Library) -> None:
    with pytest.raises(UnreadableVideo, match="got only sound"):
        probe(library.made("sound.mp4", write_sound))


def test_no_file_and_a_directory_are_not_found(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.mp4", tmp_path):
        with pytest.raises(SourceNotFound) as caught:
            probe(path)
        assert_fit_for_people(caught.value, path)


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(SourceNotFound, match="regular file"):
        probe(tmp_path / "pipe.mp4")


def test_an_mp4_without_its_index_is_unreadable(library: Library) -> None:
    path = library.made("no_moov.mp4", lambda target: without_box(library.path("h264.mp4"), b"moov", target))
    with pytest.raises(UnreadableVideo, match="damaged"):
        probe(path)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile {secret}\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2.0,\n{secret}\n#EXT-X-ENDLIST\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" '
        'profiles="urn:mpeg:dash:profile:isoff-live:2011">'
        "<Period><AdaptationSet><Representation><BaseURL>{secret}</BaseURL></Representation></AdaptationSet></Period></MPD>",
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 5004 RTP/AVP 96\r\n",
    ],
    ids=["concat", "hls", "dash", "sdp"],
)
@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "ffconcat", "mpd"])
def test_a_playlist_does_not_open_a_siblings_file(text: str, suffix: str, library: Library) -> None:
    secret = library.path("h264.ts")
    for name in (secret.name, str(secret), f"file:{secret}"):
        path = secret.parent / f"playlist.{suffix}"
        path.write_text(text.format(secret=name))
        with pytest.raises(UnreadableVideo):
            probe(path)


def test_a_name_that_looks_like_a_url_is_a_name(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.mp4", "http:x.mp4", "-i.mp4", "ünï✓ %d.mp4"):
        Path(name).write_bytes(library.path("h264.mp4").read_bytes())
        assert probe(name).codec == "h264"


def test_frames_over_the_limit_are_refused_before_decoding(library: Library) -> None:
    def write(target: Path) -> None:
        write_video(target, size=(8192, 4096), frames=1, options={"preset": "ultrafast", "crf": "40"})

    with pytest.raises(FrameTooLarge) as caught:
        probe(library.made("huge.mp4", write))
    assert caught.value.details == {"width": 8192, "height": 4096}


def test_a_forged_size_in_the_header_misleads_nobody(library: Library) -> None:
    claimed = library.made("forged.mp4", lambda target: forged_size(library.path("h264.mp4"), (8192, 8192), target))
    assert probe(claimed).height == 64
    hidden = library.made("hidden.mp4", lambda target: forged_size(library.path("huge.mp4"), (64, 64), target))
    with pytest.raises(FrameTooLarge):
        probe(hidden)


def test_every_sample_time_that_is_planned_lies_within_the_video(library: Library) -> None:
    """The plan made from the probe asks for no time behind the last frame, and reaches it."""
    for name in ("h264_variable.mp4", "h264_start.mkv", "h264_turned_90.mp4", "h264.ts"):
        info = probe(library.path(name))
        clips = plan_clips(info, SamplingOptions(clip_duration_s=1.0, fps=4), max_frames=8)
        times = [time_s for clip in clips for time_s in clip.sample_times_s]
        assert max(times) < info.duration_s
        assert clips[-1].end_s == pytest.approx(info.duration_s, abs=1e-6)


def test_transport_streams_joined_with_a_jump_in_time_have_a_duration(library: Library) -> None:
    path = library.made(
        "joined.ts", lambda target: joined([library.path("h264_start.ts"), library.path("h264.ts")], target)
    )
    assert probe(path).duration_s > 0
