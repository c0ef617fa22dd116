"""A load client that costs little: HTTP/1.1 over lines that are kept open, and the latency of every call."""

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

_DEADLINE_S = 60.0


class Line:
    """One connection that is kept open; one call at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**24))

    async def call(self, request: bytes) -> tuple[int, bytes]:
        """Return status and body. Raises OSError, EOFError or TimeoutError when the line breaks."""
        async with asyncio.timeout(_DEADLINE_S):
            self._writer.write(request)
            head = await self._reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next(int(one[15:]) for one in lines if one.startswith(b"content-length:"))
            return int(head[9:12]), await self._reader.readexactly(length)

    async def stream(self, path: str) -> asyncio.StreamReader:
        """Ask for an answer that does not end; return where it comes in."""
        self._writer.write(request("GET", path))
        await self._reader.readuntil(b"\r\n\r\n")
        return self._reader

    def close(self) -> None:
        self._writer.close()


def request(method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
    """Return the bytes of a call."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n"
    kind = "Content-Type: application/json\r\n" if content else ""
    return f"{head}{kind}\r\n".encode() + content


@dataclass(slots=True)
class Latencies:
    """What a number of calls took: seconds each, seconds of all together, and the client's own CPU time."""

    each_s: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    client_cpu_s: float = 0.0

    @property
    def per_s(self) -> float:
        return len(self.each_s) / self.wall_s

    def quantile_ms(self, share: float) -> float:
        return quantile(self.each_s, share) * 1000

    def figures(self) -> dict[str, float]:
        return {
            "calls": len(self.each_s),
            "calls/s": self.per_s,
            "median, ms": self.quantile_ms(0.5),
            "p95, ms": self.quantile_ms(0.95),
            "slowest, ms": max(self.each_s) * 1000,
            "client's share of one core": self.client_cpu_s / self.wall_s,
        }


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


async def flat_out(port: int, requests: Iterator[bytes], *, lines: int, for_s: float, expect: int) -> Latencies:
    """Call over so many lines, each as soon as it has its answer."""
    until_s = time.perf_counter() + for_s

    async def work(line: Line, found: Latencies) -> None:
        while time.perf_counter() < until_s:
            await _timed(line, next(requests), expect, found)

    return await _measured(port, lines, work)


async def paced(
    port: int, requests: Iterator[bytes], *, lines: int, every_s: float, for_s: float, expect: int
) -> Latencies:
    """Call over so many lines, each once every `every_s`, one line after the other.

    A call that is due while its line still waits goes out late, and its latency counts from when it was due: a service
    that falls behind cannot hide it by slowing its clients down.
    """
    begun_s = time.perf_counter()
    turns = iter(range(lines))

    async def work(line: Line, found: Latencies) -> None:
        due_s = begun_s + next(turns) * every_s / lines
        while due_s < begun_s + for_s:
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            await _timed(line, next(requests), expect, found, due_s)
            due_s += every_s

    return await _measured(port, lines, work)


async def _timed(line: Line, request: bytes, expect: int, found: Latencies, due_s: float | None = None) -> None:
    begun_s = due_s or time.perf_counter()
    status, body = await line.call(request)
    found.each_s.append(time.perf_counter() - begun_s)
    if status != expect:
        raise RuntimeError(f"expected {expect}, got {status}: {body[:300]!r}")


async def _measured(port: int, count: int, work: Callable[[Line, Latencies], Awaitable[None]]) -> Latencies:
    lines = [await Line.open(port) for _ in range(count)]
    found, cpu_s, begun_s = Latencies(), time.process_time(), time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for line in lines:
                group.create_task(_as_coroutine(work(line, found)))
    finally:
        for line in lines:
            line.close()
    found.wall_s, found.client_cpu_s = time.perf_counter() - begun_s, time.process_time() - cpu_s
    return found


async def _as_coroutine(work: Awaitable[None]) -> None:
    await work
