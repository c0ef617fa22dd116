"""How fast the HTTP API is on a real `vidray serve`: accepting analyses, looking at them, hearing of their events.

The service has one gateway replica behind one proxy; this client runs on the same cores. `make bench-http`.
"""

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.films import write_film
from benchmarks.http_client import Latencies, flat_out, paced, quantile, request
from benchmarks.http_watchers import by_sse, by_websocket, idle, slow, told_in_full
from benchmarks.process_memory import roles, sizes_mib
from benchmarks.results_file import Bar, table, write_result
from benchmarks.service import MODEL, Service, running, simulated_args

HUNG = "hung"
"""A model beside MODEL that never answers, so that an analysis stays where it is."""
CLIENTS, READERS, WATCHERS, SLOW, PUNCTUAL = 50, 16, 1000, 50, 5
AT_ONCE = 64
"""Analyses that a runner has claimed at most; what comes after them waits in the queue."""
CLIP_ENGINE_S = 0.05
ROUNDS = 3
READ_EVERY_S = 0.2
_DEADLINE_S = 300.0

Figures = dict[str, dict[str, float]]


def args_in(folder: Path) -> dict[str, Any]:
    """Return the app's arguments with both models."""
    args = simulated_args(folder, clip_engine_s=CLIP_ENGINE_S, in_flight=2 * AT_ONCE)
    hung = {"engine": "simulated", "simulated": {"failures": [{"kind": "hang"}]}}
    return args | {"models": args["models"] | {HUNG: hung}}


class Bench:
    """One service, asked in every way. `for_s` is how long each way is measured."""

    def __init__(self, service: Service, for_s: float, watchers: int) -> None:
        self._service = service
        self._for_s = for_s
        self._watchers = watchers
        self._file = service.upload(write_film("http-tiny", width=64, height=36, duration_s=10.0))
        self._held = 0
        self.figures: Figures = {}

    def _new(self, model: str, **options: Any) -> dict[str, Any]:
        # Words of its own, so that no caption of an earlier analysis answers
        asked = {"file_id": self._file, "model": model, "frames_per_clip": 1, "prompt": uuid.uuid4().hex}
        return asked | {"clip_duration_s": 10.0} | options

    def _begin(self, model: str, **options: Any) -> str:
        """Return the path of a new analysis."""
        one = self._service.ask("POST", "/v1/analyses", json=self._new(model, **options))["id"]
        return f"/v1/analyses/{one}"

    def _hold(self) -> str:
        """Return the path of a new analysis that runs for ever."""
        analysis = self._begin(HUNG)
        self._wait(analysis, lambda one: one["state"] == "running")
        self._held += 1
        return analysis

    def _wait(self, analysis: str, holds: Callable[[dict[str, Any]], bool]) -> None:
        give_up_s = time.monotonic() + _DEADLINE_S
        while not holds(now := self._service.ask("GET", analysis)):
            if time.monotonic() > give_up_s:
                raise RuntimeError(f"expected another state within {_DEADLINE_S:g} s, got {now['state']}")
            time.sleep(0.1)

    def reads(self) -> dict[str, Bar]:
        """Status reads as fast as the service answers, of an analysis that runs and of one that is done."""
        runs, done = self._hold(), self._begin(MODEL, clip_duration_s=0.1)
        self._wait(done, lambda one: one["finished_at"] is not None)
        for name, path in (("running", runs), ("done, 100 clips", done)):
            looks = itertools.repeat(request("GET", path))
            asyncio.run(flat_out(self._service.port, looks, lines=READERS, for_s=self._for_s / 5, expect=200))  # warm
            found = asyncio.run(flat_out(self._service.port, looks, lines=READERS, for_s=self._for_s, expect=200))
            self.figures[f"status reads, {name}, {READERS} clients flat out"] = found.figures()
            if path == runs:
                bar = Bar(found.per_s, 300.0, "reads/s")
        return {"status reads on one gateway replica": bar}

    def events(self) -> dict[str, Bar]:
        """How late the events of an analysis under way reach its watchers."""
        clips = round(self._for_s / CLIP_ENGINE_S)
        duration_s = round(10.0 / clips, 3)
        late_s: dict[str, list[float]] = {}

        async def follow(analysis: str) -> list[list[float]]:
            port = self._service.port
            sockets = [by_websocket(port, analysis) for _ in range(PUNCTUAL)]
            return await asyncio.gather(*sockets, *(by_sse(port, analysis) for _ in range(PUNCTUAL)))

        found = asyncio.run(follow(self._begin(MODEL, clip_duration_s=duration_s)))
        late_s = {
            "WebSocket": [late for one in found[:PUNCTUAL] for late in one],
            "SSE": [late for one in found[PUNCTUAL:] for late in one],
        }
        for kind, late in late_s.items():
            self.figures[f"event to {PUNCTUAL} watchers, {kind}"] = {
                "events": len(late) / PUNCTUAL,
                "median, ms": statistics.median(late) * 1000,
                "p95, ms": quantile(late, 0.95) * 1000,
                "slowest, ms": max(late) * 1000,
            }
        return {
            "event at its watchers after it happened, slowest": Bar(max(map(max, late_s.values())), 1.0, "s", "lower")
        }

    def idle_watchers(self) -> dict[str, Bar]:
        """Status reads at an easy pace without and with many idle watchers, in turn."""
        analysis = self._hold()
        looks = itertools.repeat(request("GET", analysis))
        without, beside = Latencies(), Latencies()
        for _ in range(ROUNDS):
            self._read_into(without, looks)
            with idle(self._service.port, analysis, self._watchers):
                self._read_into(beside, looks)
        names = {"without watchers": without, f"beside {self._watchers} idle watchers": beside}
        for name, found in names.items():
            self.figures[f"status reads {name}, {READERS / READ_EVERY_S:g}/s"] = found.figures()
        ratio = beside.quantile_ms(0.5) / without.quantile_ms(0.5)
        return {
            f"latency of a status read beside {self._watchers} idle watchers over that without, median": Bar(
                ratio, 1.10, "x", "lower"
            )
        }

    def _read_into(self, found: Latencies, looks: Iterator[bytes]) -> None:
        time.sleep(2.0)  # what the watchers' coming and going costs is over
        more = asyncio.run(
            paced(self._service.port, looks, lines=READERS, every_s=READ_EVERY_S, for_s=self._for_s, expect=200)
        )
        found.each_s += more.each_s
        found.wall_s += more.wall_s
        found.client_cpu_s += more.client_cpu_s

    def slow_watchers(self) -> dict[str, Bar]:
        """A punctual watcher beside many that take nothing of what comes; what that costs the service's memory."""
        before_mib = self._memory_mib()
        late = {}
        for name, count in (("without", 0), (f"beside {SLOW}", SLOW)):
            analysis = self._begin(MODEL, clip_duration_s=0.05)
            late[name], told = asyncio.run(self._watch_beside_slow(analysis, count))
            self.figures[f"event to a watcher {name} slow ones"] = {
                "events": len(late[name]),
                "median, ms": statistics.median(late[name]) * 1000,
                "p95, ms": quantile(late[name], 0.95) * 1000,
                "slowest, ms": max(late[name]) * 1000,
                "slow ones that had every event in the end": told,
                "growth of proxy and gateway, MiB": self._memory_mib() - before_mib,
            }
        return {
            f"event at its watcher beside {SLOW} slow ones, slowest": Bar(
                max(late[f"beside {SLOW}"]), 1.0, "s", "lower"
            )
        }

    async def _watch_beside_slow(self, analysis: str, count: int) -> tuple[list[float], int]:
        async with slow(self._service.port, analysis, count) as lines:
            late_s = await by_websocket(self._service.port, analysis)
            return late_s, sum([await asyncio.to_thread(told_in_full, line) for line in lines])

    def _memory_mib(self) -> float:
        assert self._service.process is not None
        ours = ("ray ProxyActor", "replica gateway")
        pids = [pid for pid, role in roles(self._service.process.pid) if role in ours]
        return sum(sizes_mib(pid, "smaps_rollup")["Pss"] for pid in pids)

    def posts(self) -> dict[str, Bar]:
        """New analyses from many clients, while the runner has its hands full and they wait in the queue."""
        while self._held < AT_ONCE:
            self._hold()
        new = (request("POST", "/v1/analyses", self._new(MODEL)) for _ in itertools.count())
        port = self._service.port
        calm = asyncio.run(paced(port, new, lines=CLIENTS, every_s=1.0, for_s=self._for_s, expect=202))
        self.figures[f"POST /v1/analyses, {CLIENTS} clients, one a second each"] = calm.figures()
        full = asyncio.run(flat_out(port, new, lines=CLIENTS, for_s=self._for_s, expect=202))
        self.figures[f"POST /v1/analyses, {CLIENTS} clients flat out"] = full.figures()
        return {
            f"POST /v1/analyses, {CLIENTS} clients that ask once a second, p95": Bar(
                calm.quantile_ms(0.95), 100.0, "ms", "lower"
            )
        }


def main() -> None:
    """Parse the command line, measure and write `benchmarks/results/http_api.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="for which each figure is measured")
    parser.add_argument("--watchers", type=int, default=WATCHERS, help="that wait idly")
    ways = ("reads", "events", "idle_watchers", "slow_watchers", "posts")
    parser.add_argument("--only", nargs="+", choices=ways, default=list(ways), help="what is measured")
    parser.add_argument("--dry-run", action="store_true", help="print the figures and write no file")
    args = parser.parse_args()
    bars: dict[str, Bar] = {}
    with (
        tempfile.TemporaryDirectory(prefix="vidray-http-") as folder,
        running(Path(folder), args_in(Path(folder))) as service,
    ):
        bench = Bench(service, args.seconds, args.watchers)
        for way in ways:
            if way in args.only:
                bars |= getattr(bench, way)()
    if args.dry_run:
        print(table(bench.figures, bars))
        return
    write_result(
        "http_api",
        bench.figures,
        bars,
        model="simulated engines",
        shape=f"one gateway replica, the client on the same cores; {args.seconds:g} s a figure; a video of 10 s; new "
        f"analyses wait in the queue behind {AT_ONCE} that run",
    )


if __name__ == "__main__":
    main()
