"""Decode the sampled frames of clips, exactly and no more than needed; runs in the sandbox's child only."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from deployments.contracts import FrameBatch
from pipelines.demux import PacketReader, Span
from pipelines.opening import OpenVideo, damage_ignored, own_decoder
from pipelines.pictures import Pictures
from pipelines.selection import PacketMark, Run, entry_points, latest_ticks, runs, spans, wanted_pts
from pipelines.video import ClipPlan, DecoderName

SPAN_S = 20
"""Sample times further apart than this are not read through but sought one by one."""


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
        # One opening at a time: a container's index grows with the film (75 bytes a frame in MP4, 13 MB for two hours).
        with OpenVideo(path) as video:
            self._video = video
            self._decoder = own_decoder(video.stream)
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
        found = Pictures(len(ticks), size, first.rotation_deg, self._scaler)
        for some in spans(ticks, round(SPAN_S / time_base)):
            if not self._video.has_pts or not self._by_packets(some, found):
                self._in_order(some, found)
        return found.batch(clip, self._video)

    def close(self) -> None:
        self._reader.close()

    def _by_packets(self, ticks: Sequence[int], found: Pictures) -> bool:
        """Find the frames on screen at `ticks`; False when packets without pts are met."""
        aim = ticks[0]
        for back in (0, 1):  # one keyframe further back, should the nearest turn out to be none
            span = self._reader.span(aim, ticks[-1])
            if span is None:
                return False
            wanted = set(wanted_pts((mark.pts for mark in span.marks if mark.shown), ticks))
            for resume in (True, False) if not back else (False,):
                if missing := wanted - found.seen:
                    self._feed(span, missing, back, resume, found)
            if wanted <= found.seen:
                break
            aim = span.marks[0].pts - 1
        return True

    def _feed(self, span: Span, wanted: set[int], back: int, resume: bool, found: Pictures) -> None:
        """Decode the span's packets that the wanted frames depend on."""
        marks = span.marks
        entries = entry_points(marks, wanted, back)
        plan = runs(entries)
        at = self._resume_at(marks, plan[0], entries) if resume else None
        if at is None:
            self._reset()
        else:
            plan[0] = Run(at, max(at, plan[0].stop))
            for pts, frame in self._ahead.items():
                if frame is not None and pts in wanted:
                    found.add(pts, frame)
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
            if wanted <= found.seen:
                break
            self._ahead[marks[position].pts] = None
            self._push(span.packets[position], marks[position], wanted, found)
        if not wanted <= found.seen:
            self._drain(wanted, found)

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

    def _push(self, packet: "Packet[VideoStream]", mark: PacketMark, wanted: set[int], found: Pictures) -> None:
        self._begun, self._fed = mark.pts if self._begun is None else self._begun, mark.pts
        with damage_ignored():
            self._keep(self._decoder.decode(packet), wanted, found)

    def _drain(self, wanted: set[int], found: Pictures) -> None:
        """Get the frames out that are still inside the decoder; after that it is empty."""
        with damage_ignored():
            self._keep(self._decoder.decode(None), wanted, found)
        self._reset()

    def _keep(self, frames: Sequence[VideoFrame], wanted: set[int], found: Pictures) -> None:
        for frame in frames:
            pts = self._video.time_of(frame)
            if pts is None or frame.is_corrupt:
                continue
            if pts in wanted:
                found.add(pts, frame)
            if pts in self._ahead:
                self._ahead[pts] = frame

    def _reset(self) -> None:
        """Empty the decoder: what it is fed next must be a keyframe."""
        self._decoder.skip_frame = "DEFAULT"
        self._decoder.flush_buffers()
        self._begun, self._fed, self._ahead = None, None, {}

    def _in_order(self, ticks: Sequence[int], found: Pictures) -> None:
        """Find the frames on screen at `ticks` by decoding every frame, for files whose packets have no pts."""
        self._reset()
        if not self._reader.seek(ticks[0]) or not self._walk(ticks, found):
            self._reset()
            self._reader.rewind()
            self._walk(ticks, found)

    def _walk(self, ticks: Sequence[int], found: Pictures) -> bool:
        """Decode on from where the demuxer stands; False when that is already behind the first of `ticks`."""
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
                if shown is None and pts > ticks[0] and pts > self._video.first.pts:
                    return False
                while open_ticks and pts > open_ticks[0]:
                    open_ticks.pop(0)
                    found.add(*(shown or (pts, frame)))
                shown = (pts, frame)
            if packet is None:
                if shown and open_ticks:
                    found.add(*shown)
                break
        self._reset()
        return shown is not None
