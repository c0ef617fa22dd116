"""Find out what is really in a video file; runs in the sandbox's child only."""

import os
from fractions import Fraction
from pathlib import Path

import av.error
from av.container import InputContainer
from av.video.stream import VideoStream

from deployments.errors import UnreadableVideo
from pipelines.opening import OpenVideo, has_pts, open_container, picture_stream, read_packets
from pipelines.video import VideoInfo

SMALL_FILE_BYTES = 64 * 2**20
"""Up to this size every packet is read, which takes some 50 ms; of larger files only the tail."""

MAX_DURATION_S = 7 * 24 * 3600.0
TAIL_S = 2
"""Seconds read before the claimed end: the last frames are not the last packets, and MPEG-TS parsers need a start."""

TRUSTED_S = 1
"""How far before the header's claimed end the file may end without the header being taken for a liar."""


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
    with_pts = has_pts(container, stream)
    frames, last, end = 0, -(2**63), -(2**63)
    for packet in read_packets(container, stream):
        pts = packet.pts if with_pts and packet.pts is not None else packet.dts
        if pts is None or packet.is_corrupt or packet.is_discard:
            continue
        frames += 1
        if pts >= last:
            last, end = pts, pts + (packet.duration or 0)
    if end == last:
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        end = last + max(1, round(1 / (rate * (stream.time_base or Fraction(1, 90_000)))))
    return frames, end
