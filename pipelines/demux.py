"""Read the packets around sample times, so that what to decode is known before anything is decoded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av.error
from av.packet import Packet
from av.video.stream import VideoStream

from deployments.errors import ClipUndecodable
from pipelines.opening import open_container, picture_stream, read_packets
from pipelines.selection import PacketMark

HELD_BYTES = 32 * 2**20
"""Packets of a span up to this many bytes stay in memory between choosing and decoding; larger spans are read twice."""

READ_ON_PACKETS = 4
"""Packets read past the last sample time: a decoder gives a frame out only after some of those behind it."""

SEEK_BACK_S = (0, 1, 10, 60)
"""How much earlier to aim, try by try, when a seek lands behind its target; then the file is read from its start."""


@dataclass(frozen=True, slots=True)
class Span:
    """Packets in decode order, beginning at a keyframe; `packets[position]` is quick for ascending positions."""

    marks: list[PacketMark]
    packets: "Sequence[Packet[VideoStream]] | _Reread"


class PacketReader:
    """The demuxer of one video stream in an opening of the file of its own, so that seeking empties no decoder."""

    def __init__(self, path: Path, first_pts: int) -> None:
        self._path = path
        self._first_pts = first_pts
        self._open()

    def _open(self) -> None:
        self._container = open_container(self._path)
        self._stream = picture_stream(self._container, self._path.name)
        self._time_base = self._stream.time_base or Fraction(1, 90_000)

    def close(self) -> None:
        self._container.close()

    def span(self, aim: int, last: int) -> Span | None:
        """Return the packets from the last keyframe at or before tick `aim` until all frames up to `last` are known.

        None when a packet carries no pts.
        """
        for back_s in SEEK_BACK_S:
            if not self.seek(max(self._first_pts, aim - round(back_s / self._time_base))):
                break
            span = self._read(aim, last)
            if span is None or (span.marks and span.marks[0].keyframe and span.marks[0].pts <= aim):
                return span
        self.rewind()
        return self._read(aim, last)

    def packets(self) -> "Iterator[Packet[VideoStream]]":
        """Yield the packets from where the last seek landed."""
        return read_packets(self._container, self._stream)

    def seek(self, tick: int) -> bool:
        """Go to the last keyframe at or before `tick`, as well as the container can; False when it cannot at all."""
        try:
            self._container.seek(tick, stream=self._stream)
        except av.error.FFmpegError:
            return False
        return True

    def rewind(self) -> None:
        """Go back to the file's first packet."""
        self._container.close()
        self._open()

    def _read(self, aim: int, last: int) -> Span | None:
        marks: list[PacketMark] = []
        held: list[Packet[VideoStream]] = []
        held_bytes, read_on = 0, READ_ON_PACKETS
        for packet in self.packets():
            if packet.pts is None:
                return None
            if packet.is_keyframe and packet.pts <= aim:
                marks, held, held_bytes = [], [], 0
            marks.append(PacketMark(packet.pts, packet.dts, packet.is_keyframe, not packet.is_discard))
            held_bytes += packet.size
            if held_bytes <= HELD_BYTES:
                held.append(packet)
            else:
                held = []
            if packet.dts is not None and packet.dts > last:
                if not read_on:
                    break
                read_on -= 1
        return Span(marks, held if held_bytes <= HELD_BYTES else _Reread(self, marks))


class _Reread:
    """The packets of `marks` read once more from the file: indexing must ascend."""

    def __init__(self, reader: PacketReader, marks: Sequence[PacketMark]) -> None:
        self._reader = reader
        self._first = marks[0]
        self._packets = self._again()
        self._position = -1
        self._packet: Packet[VideoStream] | None = None

    def __getitem__(self, position: int) -> "Packet[VideoStream]":
        if position < self._position:
            self._packets, self._position = self._again(), -1
        while self._position < position:
            self._packet = next(self._packets, None)
            self._position += 1
        if self._packet is None:
            raise ClipUndecodable("expected the file to stay as it is while it is read, got other packets")
        return self._packet

    def _again(self) -> "Iterator[Packet[VideoStream]]":
        if not self._reader.seek(self._first.pts):
            self._reader.rewind()
        packets = self._reader.packets()
        for packet in packets:
            if (packet.pts, packet.dts) == (self._first.pts, self._first.dts):
                yield packet
                break
        yield from packets
