"""Turn decoded frames into the pictures of a clip: right size, right way up, right colours; in the child only."""

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from deployments.contracts import FrameBatch
from deployments.errors import ClipUndecodable
from pipelines.opening import OpenVideo, check_pixels, damage_ignored
from pipelines.video import ClipPlan

HD_HEIGHT = 720
"""Untagged video at least this high is taken for BT.709, lower for BT.601."""

_COLORSPACES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.SMPTE170M,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
"""AVColorSpace of a frame -> the scaler's name for it."""


class Pictures:
    """Collects at most `capacity` pictures of one clip in one array, so that no decoded frame need be kept."""

    def __init__(self, capacity: int, size: tuple[int, int], rotation_deg: int, scaler: VideoReformatter) -> None:
        self._frames = np.empty((capacity, size[1], size[0], 3), np.uint8)
        self._pts: list[int] = []
        self._rotation_deg = rotation_deg
        self._scaler = scaler
        self.seen: set[int] = set()

    def add(self, pts: int, frame: VideoFrame) -> None:
        """Scale, turn and keep the frame unless there is one of that `pts` (ticks) or it cannot be converted."""
        if pts in self.seen:
            return
        with damage_ignored():
            self._put(self._frames[len(self._pts)], frame)
            self._pts.append(pts)
            self.seen.add(pts)

    def batch(self, clip: ClipPlan, video: OpenVideo) -> FrameBatch:
        """Return what was kept in order of time. Raises ClipUndecodable when that is nothing."""
        if not self._pts:
            raise ClipUndecodable(
                f"expected frames between {clip.start_s:.3f} and {clip.end_s:.3f} s, got none that can be decoded",
                clip_index=clip.index,
            )
        frames, order = self._frames[: len(self._pts)], sorted(range(len(self._pts)), key=self._pts.__getitem__)
        if order != list(range(len(order))):
            frames = frames[order]
        pts_s = [float((self._pts[at] - video.first.pts) * video.time_base) for at in order]
        return FrameBatch(frames=frames, pts_s=np.array(pts_s, dtype=np.float64))

    def _put(self, picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], frame: VideoFrame) -> None:
        """Write the frame as uint8 (H, W, 3) RGB. Bicubic, as vision models' own processors scale."""
        check_pixels(frame.width, frame.height)
        height, width = picture.shape[:2]
        if self._rotation_deg % 180:
            width, height = height, width
        untagged = Colorspace.ITU709 if frame.height >= HD_HEIGHT else Colorspace.ITU601
        rgb = self._scaler.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=_COLORSPACES.get(frame.colorspace, untagged),
            dst_colorspace=Colorspace.ITU709,
            src_color_range=frame.color_range,
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.BICUBIC,
            threads=1,
        ).to_ndarray()
        picture[:] = np.rot90(rgb, k=-self._rotation_deg // 90 % 4)
