"""Open untrusted video files, within limits; runs in the sandbox's child only."""

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
from av.codec import CodecContext
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from deployments.errors import FrameTooLarge, SourceNotFound, UnreadableVideo

MAX_FRAME_PIXELS = 16_777_216
"""Frames above 4096x4096 are refused: decoders hold up to 17 of them, and a forged header can ask for 8192x8192."""

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"
"""The containers read. Playlists (concat, hls, dash), image sequences and devices are out: they open other files."""

OPEN_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file", "max_pixels": str(MAX_FRAME_PIXELS)}


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
            self.has_pts = has_pts(self.container, self.stream)
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


def has_pts(container: InputContainer, stream: VideoStream) -> bool:
    """Say whether the stream's packets carry usable presentation times; reordered frames in AVI do not."""
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
