"""Are uploads flat and exact? Large videos in parts over lines that are cut: Serve's memory, every byte, what is left.

Each client loses all its connections at random instants in the middle of a part, asks what has arrived and sends what
is missing. `make bench-uploads`; it needs room for three times the videos in the temporary directory.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import secrets
import socket
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from benchmarks.films import write_film
from benchmarks.pipeline import app_config
from benchmarks.process_memory import Sampler, roles, sizes_mib
from benchmarks.results_file import Bar, table, write_result
from deployments.settings import VisionSettings
from serve_app.cluster_app import local_app

PART_MIB = 4
"""What clients are told to send parts of: Serve holds each part under way in both processes, so larger ones cost more
(parts of 8 MiB cost almost twice as much: `--part-mib 8`)."""
LINES = 2
"""Parts that a client sends at a time, each over a connection of its own."""
_PIECE_BYTES = 256 << 10
_SWEEP_S, _SETTLE_S = 2.0, 20.0
_PROCESSES = {"proxy": "ray ProxyActor", "gateway": "replica gateway"}
_KINDS = {"PSS": "Pss", "RSS": "Rss", "private": "Private_Dirty"}
"""What is read of a process. The bar is on RSS, the strictest: the proxy hands bodies to the gateway through Ray's
object store, whose pages RSS counts in both processes, PSS once among all who map them, private memory in neither."""

Sizes = dict[str, dict[str, float]]
"""MiB by process (`both`: the sum) and kind of memory."""


@dataclass(frozen=True, slots=True)
class Film:
    path: Path
    size_bytes: int
    sha256: str


def write_films(folder: Path, count: int, size_bytes: int) -> Iterator[Film]:
    """Write videos of exactly this size: a real one, then random bytes, other ones in each, that players skip."""
    clip = write_film("180p-10s", width=320, height=180, duration_s=10.0).read_bytes()
    free_bytes = size_bytes - len(clip)
    # ISO/IEC 14496-12, 4.2 and 8.1.2: a box whose length needs 64 bits, of content that is to be ignored
    head = clip + struct.pack(">I4sQ", 1, b"free", free_bytes)
    if size_bytes < len(head):
        raise ValueError(f"a video must have at least {len(head)} bytes, got {size_bytes}")
    for number in range(count):
        rng, digest, path = np.random.default_rng(number), hashlib.sha256(), folder / f"{number}.mp4"
        with path.open("wb") as file:
            file.write(head)
            digest.update(head)
            while left_bytes := size_bytes - file.tell():
                piece = rng.bytes(min(left_bytes, 16 << 20))
                file.write(piece)
                digest.update(piece)
        yield Film(path, size_bytes, digest.hexdigest())


class ServeMemory(Sampler):
    """Follows Serve's proxy and the gateway's replica; keeps the highest sizes of each, and of both at one instant."""

    def __init__(self) -> None:
        super().__init__(every_s=0.1)
        pids = {role: pid for pid, role in roles()}
        self._pids = {name: pids[role] for name, role in _PROCESSES.items()}
        self.now_mib = self.peaks_mib = self._sizes()

    def look(self) -> None:
        self.now_mib = self._sizes()
        self.peaks_mib = {
            process: {kind: max(size, self.peaks_mib[process][kind]) for kind, size in sizes.items()}
            for process, sizes in self.now_mib.items()
        }

    def _sizes(self) -> Sizes:
        told = {process: sizes_mib(pid, "smaps_rollup") for process, pid in self._pids.items()}
        sizes = {process: {kind: one[field] for kind, field in _KINDS.items()} for process, one in told.items()}
        return sizes | {"both": {kind: sum(one[kind] for one in sizes.values()) for kind in _KINDS}}


class _Cut(Exception):
    """The client's connections are gone."""


@dataclass(slots=True)
class Tally:
    """What happened to one client, or to all of them."""

    cuts: int = 0
    sent_bytes: int = 0
    parts_lost: int = 0
    """Parts whose arrival was acknowledged and that the upload did not list afterwards."""
    parts_unknown: int = 0
    """Parts that arrived without their client learning of it."""
    right: int = 0
    """Videos that were stored with the right hash and number of bytes."""


class Client:
    """Sends one film in parts, LINES at a time, in any order, and goes on after each cut."""

    def __init__(self, http: httpx2.AsyncClient, film: Film, *, part_bytes: int, cuts: int, seed: int) -> None:
        self._http, self._film, self._part_bytes = http, film, part_bytes
        self._rng = random.Random(seed)
        self._starts = range(0, film.size_bytes, part_bytes)
        # Each cut comes in a part that is begun when so many have arrived: early enough for one to be left to begin.
        arrived = range(max(1, len(self._starts) - LINES + 1))
        self._cuts = sorted(self._rng.choices(arrived, k=cuts))
        self._cut_is_near = False
        self._ids: dict[int, str] = {}
        self.tally = Tally()

    async def send(self) -> None:
        """Upload the film and compare what the service says of it. Raises RuntimeError on any refusal."""
        new = {"filename": self._film.path.name, "bytes": self._film.size_bytes, "mime_type": "video/mp4"}
        here = f"/v1/uploads/{(await self._answer('POST', '/v1/uploads', json=new))['id']}"
        while missing := [start for start in self._starts if start not in self._ids]:
            self._rng.shuffle(missing)
            try:
                async with asyncio.TaskGroup() as lines:
                    for _ in range(LINES):
                        lines.create_task(self._send_parts(here, missing))
            except* _Cut:
                self.tally.cuts += 1
                self._cut_is_near = False
            arrived = {part["id"] for part in (await self._answer("GET", here))["parts"]}
            self.tally.parts_lost += len(set(self._ids.values()) - arrived)
            self._ids = {start: part for start, part in self._ids.items() if part in arrived}
            unknown = len(arrived) - len(self._ids)
            self.tally.parts_unknown = max(unknown, self.tally.parts_unknown)
        parts = {"part_ids": [self._ids[start] for start in self._starts]}
        file = (await self._answer("POST", f"{here}/complete", json=parts))["file"]
        self.tally.right = int((file["sha256"], file["bytes"]) == (self._film.sha256, self._film.size_bytes))

    async def _send_parts(self, here: str, missing: list[int]) -> None:
        while missing:
            start = missing.pop()
            end = min(start + self._part_bytes, self._film.size_bytes)
            cut_at = None
            if self._cuts and not self._cut_is_near and len(self._ids) >= self._cuts[0]:
                self._cuts.pop(0)
                self._cut_is_near, cut_at = True, self._rng.randrange(start, end)
            # A hand-made form, so that no part is in this process's memory as a whole
            boundary = secrets.token_hex(16)
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="data"; filename="part"\r\n\r\n'.encode()
            tail = f"\r\n--{boundary}--\r\n".encode()
            headers = {
                "Content-Type": f"multipart/form-data; boundary={boundary}",
                "Content-Length": str(len(head) + end - start + len(tail)),
            }
            body = self._body(head, start, end, tail, cut_at)
            self._ids[start] = (await self._answer("POST", f"{here}/parts", content=body, headers=headers))["id"]

    async def _body(self, head: bytes, start: int, end: int, tail: bytes, cut_at: int | None) -> AsyncIterator[bytes]:
        yield head
        with self._film.path.open("rb", buffering=0) as film:
            for at in range(start, end if cut_at is None else cut_at, _PIECE_BYTES):
                piece = os.pread(film.fileno(), min(_PIECE_BYTES, (cut_at or end) - at), at)
                yield piece
                self.tally.sent_bytes += len(piece)
        if cut_at is not None:
            raise _Cut
        yield tail

    async def _answer(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = await self._http.request(method, path, **options)
        if not answer.is_success:
            raise RuntimeError(f"{method} {path} must succeed, got {answer.status_code}: {answer.text}")
        content: dict[str, Any] = answer.json()
        return content


async def upload_all(url: str, films: Sequence[Film], *, part_bytes: int, cuts: int) -> tuple[Tally, float]:
    """Upload all films at once; return what happened, and the seconds until the last one was complete."""
    begun_s = time.perf_counter()
    async with httpx2.AsyncClient(base_url=url, timeout=600.0) as http:
        clients = [
            Client(http, film, part_bytes=part_bytes, cuts=cuts, seed=number) for number, film in enumerate(films)
        ]
        await asyncio.gather(*(client.send() for client in clients))
    took_s = time.perf_counter() - begun_s
    tallies = [asdict(client.tally) for client in clients]
    return Tally(**{name: sum(one[name] for one in tallies) for name in tallies[0]}), took_s


def stored(storage: Path) -> list[dict[str, Any]]:
    """Return the records of all files."""
    return [json.loads(path.read_text()) for path in storage.glob("owners/*/files/*.json")]


def stray_bytes(storage: Path) -> int:
    """Return the size of everything in the storage that is neither a record nor the bytes of a file."""
    named = {storage / record["source"] for record in stored(storage)}
    total = 0
    for folder, _, names in os.walk(storage):
        for path in (Path(folder, name) for name in names):
            if path.suffix != ".json" and path.parent.name != "sha256" and path not in named and path.exists():
                total += path.stat().st_size
    return total


def settled_stray_bytes(storage: Path) -> int:
    """Wait for the sweep, as long as something is left that a cut-off request wrote; return what stays."""
    give_up_s = time.monotonic() + _SETTLE_S
    while (left_bytes := stray_bytes(storage)) and time.monotonic() < give_up_s:
        time.sleep(0.2)
    return left_bytes


def hashes_on_disk(storage: Path) -> list[str]:
    """Return the hash of the bytes of each file, read anew."""
    hashes = []
    for record in stored(storage):
        with (storage / record["source"]).open("rb") as content:
            hashes.append(hashlib.file_digest(content, "sha256").hexdigest())
    return sorted(hashes)


def measure(
    url: str, films: Sequence[Film], storage: Path, before_mib: Sizes, *, part_bytes: int, cuts: int
) -> dict[str, float]:
    """Upload all films once, remove them again, and return the run's figures."""
    memory = ServeMemory()
    memory.start()
    tally, took_s = asyncio.run(upload_all(url, films, part_bytes=part_bytes, cuts=cuts))
    memory.stop()
    left_at_once = stray_bytes(storage)
    left_bytes = settled_stray_bytes(storage)
    if hashes_on_disk(storage) != sorted(film.sha256 for film in films):
        tally.right = 0
    for record in stored(storage):
        httpx2.delete(f"{url}/v1/files/{record['id']}").raise_for_status()
    memory.look()
    total_bytes = sum(film.size_bytes for film in films)
    growth = {
        f"growth of {process}, {kind}, MiB": size - before_mib[process][kind]
        for process, sizes in memory.peaks_mib.items()
        for kind, size in sizes.items()
    }
    return growth | {
        "growth of both that stays, RSS, MiB": memory.now_mib["both"]["RSS"] - before_mib["both"]["RSS"],
        "right": tally.right / len(films),
        "MB/s": total_bytes / took_s / 1e6,
        "seconds": took_s,
        "cuts": tally.cuts,
        "sent anew, share": (tally.sent_bytes - total_bytes) / total_bytes,
        "acknowledged parts lost": tally.parts_lost,
        "parts that came without their client knowing": tally.parts_unknown,
        "bytes left at once": left_at_once,
        "bytes left": left_bytes,
    }


@contextmanager
def running_app(storage: Path) -> Iterator[str]:
    """Give the URL of an app of its own that keeps its files in this folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    config = app_config(VisionSettings(engine="simulated")) | {"http_options": {"host": "127.0.0.1", "port": port}}
    config["applications"][0]["args"]["storage"] = {"target": str(storage), "sweep_every_s": _SWEEP_S}
    with local_app(config, http=True) as app:
        assert app.api_url is not None
        yield app.api_url


def main() -> None:
    """Upload with cuts and without, print the table, write benchmarks/results/uploads.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=4, help="that upload at once")
    parser.add_argument("--gib", type=float, default=1.0, help="size of each one's video")
    parser.add_argument("--part-mib", type=int, default=PART_MIB, help="size of a part")
    parser.add_argument("--cuts", type=int, default=20, help="of each client's connections")
    parser.add_argument("--dry-run", action="store_true", help="print the figures and write no file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidray-uploads-") as folder:
        sources, storage = Path(folder, "sources"), Path(folder, "storage")
        sources.mkdir()
        storage.mkdir()
        films = list(write_films(sources, args.clients, round(args.gib * 2**30)))
        with running_app(storage) as url:
            # Before the first request, so that what only the first ones need counts, too.
            before_mib = ServeMemory().now_mib
            runs = {
                name: measure(url, films, storage, before_mib, part_bytes=args.part_mib << 20, cuts=cuts)
                for name, cuts in (("with cuts", args.cuts), ("without cuts", 0))
            }
    asked = f"{args.clients} clients x {args.gib:g} GiB"

    def worst(name: str) -> float:
        return max(run[name] for run in runs.values())

    bars = {
        f"uploads, {asked}: growth of proxy and gateway together": Bar(
            worst("growth of both, RSS, MiB"), 350.0, "MiB", "lower"
        ),
        f"uploads, {args.cuts} cuts each: right hashes": Bar(min(run["right"] for run in runs.values()), 1.0, "share"),
        "uploads: cuts made": Bar(runs["with cuts"]["cuts"], float(args.clients * args.cuts), "cuts"),
        "uploads: acknowledged parts lost": Bar(worst("acknowledged parts lost"), 0.0, "parts", "lower"),
        "uploads: left in the storage that no file names": Bar(worst("bytes left"), 0.0, "bytes", "lower"),
    }
    if args.dry_run:
        print(table(runs, bars))
        return
    write_result(
        "uploads",
        runs,
        bars,
        model="simulated engine",
        shape=f"{asked} in parts of {args.part_mib} MiB, {LINES} at a time, {args.cuts} cuts each; memory at 10 Hz",
    )


if __name__ == "__main__":
    main()
