"""Decode through decord: a supported choice beside PyAV, held to the same frames."""

from bisect import bisect_left
from pathlib import Path

import decord
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from deployments.contracts import FrameBatch
from deployments.errors import UnreadableVideo
from pipelines.decode import Picture, to_batch, to_picture
from pipelines.demux import PacketReader
from pipelines.probe import OpenVideo
from pipelines.selection import latest_ticks, wanted_pts
from pipelines.video import ClipPlan


class DecordDecoder:
    """Frames through decord, named by their rank in the packets' presentation times, which decord itself rounds.

    decord has no list of allowed formats: PyAV opens the file first and refuses what is not one. Frames are scaled
    here, because decord's own scaling fails at some widths (24, 48, 72, ...).
    """

    def __init__(self, path: Path) -> None:
        self._video = OpenVideo(path)
        self._scaler = VideoReformatter()
        reader = PacketReader(path, self._video.first.pts)
        try:
            shown = (packet for packet in reader.packets() if not packet.is_discard)
            times = {packet.pts if self._video.has_pts and packet.pts is not None else packet.dts for packet in shown}
        finally:
            reader.close()
        self._pts = sorted(pts for pts in times if pts is not None)
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
        pictures: dict[int, Picture] = {}
        for pts in wanted_pts(self._pts, latest_ticks(clip.sample_times_s, first.pts, self._video.time_base)):
            try:
                rgb = self._frames[bisect_left(self._pts, pts)].asnumpy()
            except (decord.DECORDError, RuntimeError):
                continue
            frame = VideoFrame.from_ndarray(rgb, format="rgb24")
            pictures[pts] = to_picture(frame, size, 0, self._scaler)  # decord has turned it already
        return to_batch(clip, pictures, self._video)

    def close(self) -> None:
        self._video.close()
        del self._frames
