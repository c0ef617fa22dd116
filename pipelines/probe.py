"""Open untrusted video files and find out what is really in them; runs in the sandbox's child only."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import av.error
import av.logging
from av.codec import CodecContext
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from deployments.errors import FrameTooLarge, SourceNotFound, UnreadableVideo
from pipelines.video import VideoInfo

MAX_FRAME_PIXELS = 16_777_216
"""Frames above 4096x4096 are refused: decoders hold up to 17 of them, and a forged header can ask for 8192x8192."""

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"
"""The containers read. Playlists (concat, hls, dash), image sequences and devices are out: they open other files."""

OPEN_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file", "max_pixels": str(MAX_FRAME_PIXELS)}

SMALL_FILE_BYTES = 64 * 2**20
"""Up to this size every packet is read, which takes some 50 ms; of larger files only the tail."""

MAX_DURATION_S = 7 * 24 * 3600.0
TAIL_S = 2
"""Seconds read before the claimed end: the last frames are not the last packets, and MPEG-TS parsers need a start."""

TRUSTED_S = 1
"""How far before the header's claimed end the file may end without the header being taken for a liar."""


@dataclass(frozen=True, slots=True)
class FirstFrame:
    """What the first frame that decodes says: `pts` in ticks of the stream, sizes in coded pixels before rotation."""

    pts: int
    width: int
    height: int
    sample_aspect: Fraction
    rotation_deg: int


class OpenVideo:
    """One opened file: its container, the video stream that people see, and that stream's first frame.

    `has_pts` is False where packets carry no usable presentation times (AVI with reordered frames). There frames come
    out of the decoder with a `dts` that grows in display order, `_delay_ticks` late. The container's own decoder has
    been used and may be used on; after the constructor the demuxer stands somewhere behind the first frame. Raises
    SourceNotFound, UnreadableVideo or FrameTooLarge.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.container = open_container(path)
        try:
            self.stream = picture_stream(self.container, path.name)
            self.time_base = self.stream.time_base or Fraction(1, 90_000)
            codec = self.stream.codec_context
            self.has_pts = _has_pts(self.container, self.stream)
            self._delay_ticks = 0
            _limit(codec)
            check_pixels(codec.width, codec.height)
            self.first = self._first_frame()
        except BaseException:
            self.container.close()
            raise

    def time_of(self, frame: VideoFrame) -> int | None:
        """Return the frame's presentation time in ticks, None when the file does not say."""
        if self.has_pts and frame.pts is not None:
            return int(frame.pts)
        return None if frame.dts is None else int(frame.dts) - self._delay_ticks

    def _first_frame(self) -> FirstFrame:
        for frame in self._frames_from_start():
            if frame.is_corrupt:
                continue
            check_pixels(frame.width, frame.height)
            aspect = self.stream.sample_aspect_ratio or Fraction(1)
            return FirstFrame(
                pts=self.time_of(frame) or 0,
                width=frame.width,
                height=frame.height,
                sample_aspect=aspect if Fraction(1, 10) <= aspect <= 10 else Fraction(1),
                rotation_deg=round(-frame.rotation / 90) * 90 % 360,
            )
        check_pixels(self.stream.codec_context.width, self.stream.codec_context.height)
        raise UnreadableVideo(f"expected a video, got no frame that can be decoded: {self.path.name}")

    def _frames_from_start(self) -> Iterator[VideoFrame]:
        decoder = self.stream.codec_context
        first_dts = None
        for packet in read_packets(self.container, self.stream):
            first_dts = packet.dts if first_dts is None else first_dts
            with damage_ignored():
                for frame in decoder.decode(packet):
                    if not self.has_pts and first_dts is not None and frame.dts is not None:
                        self._delay_ticks = frame.dts - first_dts
                    yield frame
        with damage_ignored():
            yield from decoder.decode(None)

    def close(self) -> None:
        self.container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def probe(path: str | os.PathLike[str], *, small_file_bytes: int = SMALL_FILE_BYTES) -> VideoInfo:
    """Return what is really in the file, from its packets and its first frame; header counts are not believed.

    Raises SourceNotFound, UnreadableVideo or FrameTooLarge.
    """
    path = Path(path)
    with OpenVideo(path) as video:
        tail = None
        if path.stat().st_size > small_file_bytes:
            tail = _claimed_tail(video)
        if tail is None:
            tail = _whole_file(path)
        first = video.first
        frames, end_tick = tail
        duration_s = float((end_tick - first.pts) * video.time_base)
        if not 0 < duration_s <= MAX_DURATION_S:
            raise UnreadableVideo(
                f"expected a duration above 0 and up to 7 days, got {duration_s:.3f} s: {path.name}",
            )
        width, height = max(1, round(first.width * first.sample_aspect)), first.height
        if first.rotation_deg % 180:
            width, height = height, width
        return VideoInfo(
            duration_s=duration_s,
            width=width,
            height=height,
            fps=frames / duration_s if frames else float(video.stream.average_rate or 0) or 1 / duration_s,
            rotation_deg=first.rotation_deg,
            codec=video.stream.codec_context.codec.canonical_name,
            has_audio=bool(video.container.streams.audio),
            start_pts_s=float(first.pts * video.time_base),
        )


def check_pixels(width: int, height: int) -> None:
    """Raise FrameTooLarge when a frame of that size is over the limit."""
    if width * height > MAX_FRAME_PIXELS:
        raise FrameTooLarge(
            f"a frame must have at most {MAX_FRAME_PIXELS} pixels, got {width}x{height}",
            width=width,
            height=height,
        )


def open_container(path: Path) -> InputContainer:
    """Open a file of a whitelisted container format. Raises SourceNotFound or UnreadableVideo."""
    try:
        status = path.stat()
    except OSError as error:
        raise SourceNotFound(f"expected a video file, got {(error.strerror or 'none').lower()}: {path.name}") from None
    if not stat.S_ISREG(status.st_mode):
        raise SourceNotFound(f"expected a regular file, got something else: {path.name}")
    if status.st_size == 0:
        raise UnreadableVideo(f"expected a video, got an empty file: {path.name}")
    try:
        return av.open(f"file:{path.absolute()}", metadata_errors="replace", options=OPEN_OPTIONS)
    except av.error.PermissionError:
        raise SourceNotFound(f"expected a file that may be read, got permission denied: {path.name}") from None
    except MemoryError:
        raise
    except (av.error.FFmpegError, ValueError):
        raise UnreadableVideo(
            f"expected a whole mp4, mov, mkv, webm, avi, ts, mpg, flv, ogg or wmv file, got another or a damaged one: "
            f"{path.name}"
        ) from None


def picture_stream(container: InputContainer, name: str) -> VideoStream:
    """Return the first default video stream, passing over cover art."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        found = "only sound" if container.streams.audio else "none"
        raise UnreadableVideo(f"expected a video stream, got {found}: {name}")
    stream = max(streams, key=lambda s: bool(s.disposition & Disposition.default))
    if stream.codec_context is None:
        raise UnreadableVideo(f"expected a codec that can be decoded, got an unknown one: {name}")
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return stream


def own_decoder(stream: VideoStream) -> VideoCodecContext:
    """Return a decoder for the stream's packets that no seek in a container empties and that outlives the container."""
    told = stream.codec_context
    decoder = CodecContext.create(told.codec.name, "r")
    assert isinstance(decoder, VideoCodecContext)
    if told.extradata:
        decoder.extradata = told.extradata
    decoder.width, decoder.height, decoder.codec_tag = told.width, told.height, told.codec_tag
    _limit(decoder)
    # Now, while nothing is to be skipped: dav1d asks for `skip_frame` only when it is opened.
    decoder.open()
    return decoder


def _limit(decoder: VideoCodecContext) -> None:
    decoder.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    decoder.thread_count = 1


def _has_pts(container: InputContainer, stream: VideoStream) -> bool:
    return not (container.format.name == "avi" and stream.codec_context.codec.canonical_name in ("h264", "hevc"))


@contextmanager
def damage_ignored() -> Iterator[None]:
    """Let libav's complaints about the data pass, but not a failed allocation, which says nothing about the data."""
    try:
        yield
    except MemoryError:
        raise
    except av.error.FFmpegError:
        pass


def read_packets(container: InputContainer, stream: VideoStream) -> Iterator["Packet[VideoStream]"]:
    """Yield the stream's packets from where the demuxer stands; a damaged container ends them early."""
    with damage_ignored():
        for packet in container.demux(stream):
            if packet.size:
                yield packet


def _claimed_tail(video: OpenVideo) -> tuple[int, int] | None:
    """Return (frames, end in ticks) from the packets before the claimed end, None when that is not where the end is.

    The frame count comes from the index where there is one for every sample (mp4), else it is 0 for "not counted".
    """
    stream, container = video.stream, video.container
    if stream.duration:
        claimed = (stream.start_time or 0) + stream.duration
    elif container.duration:
        claimed = round(Fraction(container.start_time + container.duration, 1_000_000) / video.time_base)
    else:
        return None
    try:
        container.seek(max(video.first.pts, int(claimed - TAIL_S / video.time_base)), stream=stream)
    except av.error.FFmpegError:
        return None
    frames, end = _count(container, stream)
    if not frames or end < claimed - TRUSTED_S / video.time_base:
        return None
    samples = len(stream.index_entries)
    return (samples if stream.duration and samples > 1 and "mp4" in container.format.name else 0), end


def _whole_file(path: Path) -> tuple[int, int]:
    """Return (frames, end in ticks) from every packet of the stream."""
    with open_container(path) as container:
        return _count(container, picture_stream(container, path.name))


def _count(container: InputContainer, stream: VideoStream) -> tuple[int, int]:
    """Return (frames, end of the last one shown in ticks) of the packets from here to the end of the file."""
    has_pts = _has_pts(container, stream)
    frames, last, end = 0, -(2**63), -(2**63)
    for packet in read_packets(container, stream):
        pts = packet.pts if has_pts and packet.pts is not None else packet.dts
        if pts is None or packet.is_corrupt or packet.is_discard:
            continue
        frames += 1
        if pts >= last:
            last, end = pts, pts + (packet.duration or 0)
    if end == last:
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        end = last + max(1, round(1 / (rate * (stream.time_base or Fraction(1, 90_000)))))
    return frames, end
