"""Decode through decord: a supported choice beside PyAV, held to the same frames."""

from bisect import bisect_left
from pathlib import Path

import decord
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from deployments.contracts import FrameBatch
from deployments.errors import UnreadableVideo
from pipelines.demux import PacketReader
from pipelines.opening import OpenVideo
from pipelines.pictures import Pictures
from pipelines.selection import latest_ticks, wanted_pts
from pipelines.video import ClipPlan

CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv")
CODECS = ("h264", "hevc", "vp8", "vp9")
"""Where decord 0.6 was found to give the right frames: it has no AV1, finds no frame in MPEG-TS, and mixes up frames of
AVI, MPEG-2 and reordered MPEG-4 (`tests/unit/pipelines/test_decode.py`)."""


class DecordDecoder:
    """Frames through decord, named by their rank in the packets' presentation times, which decord itself rounds.

    Where decord gives wrong frames the file is refused. decord has no list of allowed formats either, so PyAV opens the
    file first. Frames are scaled here, because decord's own scaling fails at some widths (24, 48, 72, ...).
    """

    def __init__(self, path: Path) -> None:
        self._video = OpenVideo(path)
        container, codec = self._video.container.format.name, self._video.stream.codec_context.codec.canonical_name
        if container not in CONTAINERS or codec not in CODECS:
            raise UnreadableVideo(
                f"expected h264, hevc, vp8 or vp9 in mp4, mkv, webm or flv for decord, got {path.name}"
            )
        self._scaler = VideoReformatter()
        self._pts = _shown_pts(path)
        try:
            self._frames = decord.VideoReader(str(path.absolute()), num_threads=1)
        except (decord.DECORDError, RuntimeError):
            raise UnreadableVideo(f"expected a video that decord reads, got one it does not: {path.name}") from None
        if len(self._frames) != len(self._pts):
            raise UnreadableVideo(
                f"expected decord to see the file's {len(self._pts)} frames, got {len(self._frames)}: {path.name}"
            )

    def decode(self, clip: ClipPlan, size: tuple[int, int]) -> FrameBatch:
        first = self._video.first
        wanted = wanted_pts(self._pts, latest_ticks(clip.sample_times_s, first.pts, self._video.time_base))
        found = Pictures(len(wanted), size, 0, self._scaler)  # decord has turned them already
        for pts in wanted:
            try:
                rgb = self._frames[bisect_left(self._pts, pts)].asnumpy()
            except (decord.DECORDError, RuntimeError):
                continue
            found.add(pts, VideoFrame.from_ndarray(rgb, format="rgb24"))
        return found.batch(clip, self._video)

    def close(self) -> None:
        self._video.close()
        del self._frames


def _shown_pts(path: Path) -> list[int]:
    """Return the presentation times of all frames, ascending. Raises UnreadableVideo for open GOPs.

    After a seek decord loses the pictures that follow a keyframe in the file but are shown before it, and counts wrong.
    """
    reader = PacketReader(path, 0)
    try:
        shown: set[int] = set()
        keyframe_pts = None
        for packet in reader.packets():
            if packet.pts is None or packet.is_discard:
                continue
            if packet.is_keyframe:
                keyframe_pts = packet.pts
            elif keyframe_pts is not None and packet.pts < keyframe_pts and shown:
                raise UnreadableVideo(f"expected closed groups of pictures for decord, got open ones: {path.name}")
            shown.add(packet.pts)
    finally:
        reader.close()
    return sorted(shown)
