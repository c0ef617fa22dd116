"""Watchers of analyses over WebSocket and SSE: punctual ones, many idle ones in their own process, and slow ones."""

import asyncio
import contextlib
import json
import multiprocessing
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from multiprocessing.synchronize import Event
from typing import Any

from websockets.asyncio.client import connect

from benchmarks.http_client import Line, request

_DEADLINE_S = 300.0
_CONNECTING_AT_ONCE = 50
_SMALL_BUFFER_BYTES = 4096


async def by_websocket(port: int, analysis: str) -> list[float]:
    """Follow an analysis to its end; return by how many seconds each event came later than its `at_s`.

    What happened before the watcher was there is the past, and does not count.
    """
    late_s = []
    async with asyncio.timeout(_DEADLINE_S), _websocket(port, analysis) as socket:
        there_s = time.time()
        async for message in socket:
            at_s = json.loads(message)["at_s"]
            if at_s >= there_s:
                late_s.append(time.time() - at_s)
    return late_s


async def by_sse(port: int, analysis: str) -> list[float]:
    """The same over server-sent events."""
    late_s = []
    line = await Line.open(port)
    try:
        stream = await line.stream(f"{analysis}/events")
        there_s = time.time()
        async with asyncio.timeout(_DEADLINE_S):
            while True:
                said = await stream.readline()
                if said.startswith(b"data: "):
                    event = json.loads(said[6:])
                    if event["at_s"] >= there_s:
                        late_s.append(time.time() - event["at_s"])
                    if "coverage" in event:  # of `done` alone
                        return late_s
                if not said:
                    raise EOFError("expected the events up to `done`, got an end before")
    finally:
        line.close()


def _websocket(port: int, analysis: str) -> connect:
    return connect(f"ws://127.0.0.1:{port}{analysis}/ws", compression=None, proxy=None, open_timeout=_DEADLINE_S)


@contextmanager
def idle(port: int, analysis: str, count: int) -> Iterator[None]:
    """Have `count` watchers, half of each kind, of an analysis in which nothing happens."""
    context = multiprocessing.get_context("spawn")
    there, over = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(port, analysis, count, there, over))
    process.start()
    try:
        give_up_s = time.monotonic() + _DEADLINE_S
        while not there.wait(0.2):
            if process.exitcode is not None or time.monotonic() > give_up_s:
                raise RuntimeError(f"expected {count} watchers within {_DEADLINE_S:g} s, got fewer")
        yield
        if process.exitcode is not None:
            raise RuntimeError(f"expected {count} watchers to stay, got an end of their process")
    finally:
        over.set()
        process.join(_DEADLINE_S)


def _hold(port: int, analysis: str, count: int, there: Event, over: Event) -> None:
    asyncio.run(_hold_open(port, analysis, count, there, over))


async def _hold_open(port: int, analysis: str, count: int, there: Event, over: Event) -> None:
    connecting = asyncio.Semaphore(_CONNECTING_AT_ONCE)
    told = asyncio.Semaphore(0)

    async def watch(number: int) -> None:
        async with contextlib.AsyncExitStack() as stack:
            async with connecting:
                if number % 2:
                    socket = await stack.enter_async_context(_websocket(port, analysis))
                    await socket.recv()  # the first event: from here on it waits
                else:
                    line = await Line.open(port)
                    stack.callback(line.close)
                    stream = await line.stream(f"{analysis}/events")
                    await stream.readuntil(b"data: ")
            told.release()
            if number % 2:
                async for _ in socket:
                    continue
            else:
                while await stream.read(2**16):
                    continue
            raise RuntimeError("expected a watcher to be left alone, got an end of its events")

    watchers = [asyncio.create_task(watch(number)) for number in range(count)]
    ending = asyncio.create_task(asyncio.to_thread(over.wait))
    for _ in watchers:
        await told.acquire()
    there.set()
    await asyncio.wait([ending, *watchers], return_when=asyncio.FIRST_COMPLETED)
    failed = [one for one in watchers if one.done()]
    for watcher in watchers:
        watcher.cancel()
    await asyncio.gather(*watchers, return_exceptions=True)
    for one in failed:
        await one


@asynccontextmanager
async def slow(port: int, analysis: str, count: int) -> AsyncIterator[list[socket.socket]]:
    """Have `count` watchers over SSE that ask for all events and take none, with small buffers."""
    lines = []
    for _ in range(count):
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER_BYTES)
        await asyncio.to_thread(line.connect, ("127.0.0.1", port))
        line.sendall(request("GET", f"{analysis}/events"))
        lines.append(line)
    try:
        yield lines
    finally:
        for line in lines:
            line.close()


def told_in_full(line: socket.socket) -> bool:
    """Take at last what waits for a slow watcher; say whether it ends with the end of the analysis."""
    line.settimeout(5.0)
    taken: Any = b""
    with contextlib.suppress(OSError):
        while piece := line.recv(2**16):
            taken = (taken + piece)[-(2**16) :]
            if b"event: done" in taken:
                return True
    return False
