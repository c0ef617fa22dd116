"""Decode the sampled frames of clips, exactly and no more than needed; runs in the sandbox's child only."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from deployments.contracts import FrameBatch
from deployments.errors import ClipUndecodable
from pipelines.demux import PacketReader, Span
from pipelines.probe import OpenVideo, check_pixels, damage_ignored
from pipelines.selection import PacketMark, Run, entry_points, latest_ticks, runs, spans, wanted_pts
from pipelines.video import ClipPlan, DecoderName

SPAN_S = 20
"""Sample times further apart than this are not read through but sought one by one."""

Picture = npt.NDArray[np.uint8]

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


class ClipDecoder(Protocol):
    """A decoder holding one file open; clips in order of time are cheapest."""

    def decode(self, clip: ClipPlan, size: tuple[int, int]) -> FrameBatch:
        """Return the frames on screen at the clip's sample times, each once, upright and scaled to `size` (w, h).

        Wanted frames that are damaged are left out. Raises ClipUndecodable when none is left.
        """
        ...

    def close(self) -> None: ...


def open_decoder(name: DecoderName, path: str | os.PathLike[str]) -> ClipDecoder:
    """Open a file with the named decoder. Raises SourceNotFound, UnreadableVideo or FrameTooLarge."""
    if name == "decord":
        from pipelines.decord_decoder import DecordDecoder  # its native libraries load only where they are asked for

        return DecordDecoder(Path(path))
    return PyavDecoder(Path(path))


class PyavDecoder:
    """Exact frames through libav, decoding only what the wanted frames depend on.

    The packets around the sample times are read first, so that the wanted frames are known exactly. Then packets from
    each wanted frame's keyframe on are decoded, except pictures that no other refers to. The decoder is kept between
    clips: one that follows the last within the same GOP is decoded on from there.
    """

    def __init__(self, path: Path) -> None:
        self._video = OpenVideo(path)
        self._decoder = self._video.stream.codec_context
        self._reader = PacketReader(path, self._video.first.pts)
        self._scaler = VideoReformatter()
        # Where the decoder stands: pts of the keyframe it began at and of the packet it was fed last.
        self._begun: int | None = None
        self._fed: int | None = None
        # Frames behind the wanted ones, decoded to push those out; None while still inside the decoder.
        self._ahead: dict[int, VideoFrame | None] = {}

    def decode(self, clip: ClipPlan, size: tuple[int, int]) -> FrameBatch:
        first, time_base = self._video.first, self._video.time_base
        ticks = latest_ticks(clip.sample_times_s, first.pts, time_base)
        pictures: dict[int, Picture] = {}
        for some in spans(ticks, round(SPAN_S / time_base)):
            frames = self._by_packets(some) if self._video.has_pts else None
            for pts, frame in (self._in_order(some) if frames is None else frames).items():
                if pts not in pictures:
                    with damage_ignored():
                        pictures[pts] = to_picture(frame, size, first.rotation_deg, self._scaler)
        return to_batch(clip, pictures, self._video)

    def close(self) -> None:
        self._video.close()
        self._reader.close()

    def _by_packets(self, ticks: Sequence[int]) -> dict[int, VideoFrame] | None:
        """Return {pts: frame} for the frames on screen at `ticks`; None when packets without pts are met."""
        found: dict[int, VideoFrame] = {}
        aim = ticks[0]
        for back in (0, 1):  # one keyframe further back, should the nearest turn out to be none
            span = self._reader.span(aim, ticks[-1])
            if span is None:
                return None
            wanted = set(wanted_pts((mark.pts for mark in span.marks if mark.shown), ticks))
            for resume in (True, False) if not back else (False,):
                if missing := wanted - found.keys():
                    found |= self._feed(span, missing, back, resume)
            if wanted <= found.keys():
                break
            aim = span.marks[0].pts - 1
        return found

    def _feed(self, span: Span, wanted: set[int], back: int, resume: bool) -> dict[int, VideoFrame]:
        """Return {pts: frame} of those wanted frames that decode well."""
        marks, found = span.marks, dict[int, VideoFrame]()
        entries = entry_points(marks, wanted, back)
        plan = runs(entries)
        at = self._resume_at(marks, plan[0], entries) if resume else None
        if at is None:
            self._reset()
        else:
            plan[0] = Run(at, max(at, plan[0].stop))
            found = {pts: frame for pts, frame in self._ahead.items() if frame is not None and pts in wanted}
            self._ahead = {pts: frame for pts, frame in self._ahead.items() if pts > max(wanted)}
        for number, run in enumerate(plan):
            if number:
                self._drain(wanted, found)
            for position in range(run.start, run.stop):
                mark = marks[position]
                # Not even looked at: pictures that are neither wanted nor referred to (most B-frames).
                self._decoder.skip_frame = "DEFAULT" if mark.pts in wanted else "NONREF"
                self._push(span.packets[position], mark, wanted, found)
        self._decoder.skip_frame = "DEFAULT"
        for position in range(plan[-1].stop, len(marks)):
            if wanted <= found.keys():
                break
            self._ahead[marks[position].pts] = None
            self._push(span.packets[position], marks[position], wanted, found)
        if not wanted <= found.keys():
            self._drain(wanted, found)
        return found

    def _resume_at(self, marks: Sequence[PacketMark], run: Run, entries: Mapping[int, int]) -> int | None:
        """Return the position to decode on from for `run`, None when the decoder does not stand within it."""
        positions = {mark.pts: position for position, mark in enumerate(marks)}
        if self._fed is None or self._begun is None or self._fed not in positions:
            return None
        at, begun = positions[self._fed] + 1, positions.get(self._begun, -1)
        passed = [position for position in entries if position < at]
        if begun <= run.start <= at and all(marks[position].pts in self._ahead for position in passed):
            return at
        return None

    def _push(
        self, packet: "Packet[VideoStream]", mark: PacketMark, wanted: set[int], found: dict[int, VideoFrame]
    ) -> None:
        self._begun, self._fed = mark.pts if self._begun is None else self._begun, mark.pts
        with damage_ignored():
            self._keep(self._decoder.decode(packet), wanted, found)

    def _drain(self, wanted: set[int], found: dict[int, VideoFrame]) -> None:
        """Get the frames out that are still inside the decoder; after that it is empty."""
        with damage_ignored():
            self._keep(self._decoder.decode(None), wanted, found)
        self._reset()

    def _keep(self, frames: Sequence[VideoFrame], wanted: set[int], found: dict[int, VideoFrame]) -> None:
        for frame in frames:
            pts = self._video.time_of(frame)
            if pts is None or frame.is_corrupt:
                continue
            if pts in wanted:
                found.setdefault(pts, frame)
            if pts in self._ahead:
                self._ahead[pts] = frame

    def _reset(self) -> None:
        """Empty the decoder: what it is fed next must be a keyframe."""
        self._decoder.skip_frame = "DEFAULT"
        self._decoder.flush_buffers()
        self._begun, self._fed, self._ahead = None, None, {}

    def _in_order(self, ticks: Sequence[int]) -> dict[int, VideoFrame]:
        """Return {pts: frame} on screen at `ticks` by decoding every frame, for files whose packets have no pts."""
        found: dict[int, VideoFrame] = {}
        for rewind in (False, True):
            self._reset()
            if rewind or not self._reader.seek(ticks[0]):
                self._reader.rewind()
            found = self._walk(ticks)
            if found and min(found) <= ticks[0]:
                break
        return found

    def _walk(self, ticks: Sequence[int]) -> dict[int, VideoFrame]:
        found: dict[int, VideoFrame] = {}
        shown: tuple[int, VideoFrame] | None = None
        open_ticks = list(ticks)
        packets = self._reader.packets()
        while open_ticks:
            packet = next(packets, None)
            frames: list[VideoFrame] = []
            with damage_ignored():
                frames = self._decoder.decode(packet)
            for frame in frames:
                pts = self._video.time_of(frame)
                if pts is None:  # frames drained at the end of the file carry none
                    pts = shown[0] + max(1, frame.duration) if shown else 0
                if frame.is_corrupt or (shown and pts <= shown[0]):
                    continue
                while open_ticks and pts > open_ticks[0]:
                    open_ticks.pop(0)
                    answer = shown or (pts, frame)
                    found[answer[0]] = answer[1]
                shown = (pts, frame)
            if packet is None:
                if shown and open_ticks:
                    found[shown[0]] = shown[1]
                break
        self._reset()
        return found


def to_picture(frame: VideoFrame, size: tuple[int, int], rotation_deg: int, scaler: VideoReformatter) -> Picture:
    """Return the frame as uint8 (H, W, 3) RGB, turned clockwise by `rotation_deg` and `size` (w, h) after that.

    Colours follow the frame's tags. Bicubic, which is what vision models are trained with.
    """
    check_pixels(frame.width, frame.height)
    width, height = size if rotation_deg % 180 == 0 else size[::-1]
    untagged = Colorspace.ITU709 if frame.height >= HD_HEIGHT else Colorspace.ITU601
    rgb = scaler.reformat(
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
    return np.ascontiguousarray(np.rot90(rgb, k=-rotation_deg // 90 % 4), dtype=np.uint8)


def to_batch(clip: ClipPlan, pictures: Mapping[int, Picture], video: OpenVideo) -> FrameBatch:
    """Return the pictures {pts in ticks: picture} as a clip's frames. Raises ClipUndecodable when there are none."""
    if not pictures:
        raise ClipUndecodable(
            f"expected frames between {clip.start_s:.3f} and {clip.end_s:.3f} s, got none that can be decoded",
            clip_index=clip.index,
        )
    order = sorted(pictures)
    pts_s = np.array([float((pts - video.first.pts) * video.time_base) for pts in order], dtype=np.float64)
    return FrameBatch(frames=np.stack([pictures[pts] for pts in order]), pts_s=pts_s)
