"""What a `kill -9` of everything costs: an analysis whose whole cluster is killed again and again, and started again.

Every process of `vidray serve`, Ray's and ours, gets SIGKILL at a random instant while clips come in; then the same
command is started again. In the end the timeline must be that of an undisturbed run. `make bench-chaos`.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import yaml

from benchmarks.films import write_film
from benchmarks.results_file import Bar, write_result

CLIPS, CLIP_S, IN_FLIGHT = 200, 0.6, 8
CLIP_ENGINE_S = 0.15
MODEL = "sim"
_MARK = "VIDRAY_CHAOS"
_START_DEADLINE_S = 180.0


@dataclass(slots=True)
class Service:
    """`vidray serve` on a port and a storage of its own; all its processes carry a mark in their environment."""

    folder: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    port: int = 0

    def start(self) -> None:
        """Start it; whether it answers is for the caller to find out."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = self.folder / "config.yaml"
        config.write_text(yaml.safe_dump(self._config()))
        command = [str(Path(sys.executable).parent / "vidray"), "serve", "--config", str(config)]
        with (self.folder / "serve.log").open("a") as log:
            subprocess.Popen(
                command, env=os.environ | {_MARK: self.mark}, stdout=log, stderr=log, start_new_session=True
            )

    def _config(self) -> dict[str, Any]:
        simulated = {"fixed_s": CLIP_ENGINE_S, "frame_s": 0.0, "call_log": str(self.folder / "calls")}
        none = {"ray_actor_options": {"num_cpus": 0}}
        app = {
            "name": "vidray",
            "route_prefix": "/",
            "import_path": "serve_app.app:build_app",
            "args": {
                "default_model": MODEL,
                "models": {MODEL: {"engine": "simulated", "simulated": simulated}},
                "in_flight_clips": IN_FLIGHT,
                "storage": {"target": str(self.folder / "storage")},
            },
            "deployments": [
                {"name": "gateway", **none},
                {"name": "runner", **none},
                {"name": f"vision-{MODEL}", **none, "user_config": {"max_batch_clips": 1}},
            ],
        }
        return {"http_options": {"host": "127.0.0.1", "port": self.port}, "applications": [app]}

    def processes(self) -> list[psutil.Process]:
        """Return every living process that belongs to it."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def kill(self) -> None:
        """End all of it at once, as a power cut does."""
        while processes := self.processes():
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """Return the JSON that answers a call, made again until it is answered."""
        give_up_s = time.monotonic() + _START_DEADLINE_S
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                answer = httpx2.request(method, f"http://127.0.0.1:{self.port}{path}", timeout=30.0, **options)
                if answer.status_code < 500:
                    answer.raise_for_status()
                    return answer.json()
            if time.monotonic() > give_up_s:
                raise RuntimeError(
                    f"expected an answer within {_START_DEADLINE_S:g} s, got none: {self.folder}/serve.log"
                )
            time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """An analysis that is done: its result, its events, the engine's calls, and the waits for work after a start."""

    result: dict[str, Any]
    events: list[dict[str, Any]]
    calls: int
    resumed_s: list[float]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Service]:
    """Give a started service; nothing of it is left at the end."""
    service = Service(folder)
    try:
        service.start()
        yield service
    finally:
        service.kill()


def analyse(service: Service, film: Path, kills: int, rng: random.Random) -> Outcome:
    """Describe the film, killing everything `kills` times on the way."""
    file = service.ask("POST", "/v1/files", files={"file": (film.name, film.read_bytes())})
    body = {"file_id": file["id"], "clip_duration_s": CLIP_S, "frames_per_clip": 2}
    # The key makes the call one that may be made again, whatever became of the first answer.
    analysis = service.ask("POST", "/v1/analyses", json=body, headers={"Idempotency-Key": service.mark})
    here = f"/v1/analyses/{analysis['id']}"
    resumed_s: list[float] = []
    for _ in range(kills):
        done = service.ask("GET", here)["progress"]["clips_done"]
        begun_s = time.monotonic()
        while (now := service.ask("GET", here))["progress"]["clips_done"] == done:
            if now["finished_at"] is not None or time.monotonic() - begun_s > _START_DEADLINE_S:
                raise RuntimeError(
                    f"expected clips to kill the cluster among, got {now['state']} after {len(resumed_s)}"
                )
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 1.0))
        service.kill()
        begun_s = time.monotonic()
        before = _told(service.folder)
        service.start()
        while _told(service.folder) == before:
            time.sleep(0.05)
        resumed_s.append(time.monotonic() - begun_s)
    while service.ask("GET", here)["finished_at"] is None:
        time.sleep(0.2)
    text = httpx2.get(f"http://127.0.0.1:{service.port}{here}/events", timeout=60.0).text
    events = [
        json.loads(line.removeprefix("data: ")) | {"event": kind.removeprefix("event: "), "id": int(number[4:])}
        for number, kind, line in (block.split("\n") for block in text.split("\n\n") if block.startswith("id: "))
    ]
    calls = len((service.folder / "calls").read_text().splitlines())
    return Outcome(service.ask("GET", f"{here}/result"), events, calls, resumed_s)


def _told(folder: Path) -> int:
    """Return how many outcomes are recorded, read from the disk: also while nobody answers."""
    return sum(1 for _ in folder.glob("storage/owners/*/analyses/*/clips/*/*.json"))


def timeline(result: dict[str, Any]) -> str:
    """Return what of a result follows from the video and the model alone, as JSON."""
    volatile = ("analysis_id", "attempts", "timings")
    clips = [
        {name: value for name, value in clip.items() if name not in ("decode_s", "queue_s", "engine_s", "attempts")}
        for clip in result["clips"]
    ]
    return json.dumps({name: result[name] for name in result if name not in volatile} | {"clips": clips})


def main() -> None:
    """Parse the command line, measure and write `benchmarks/results/chaos.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="print the figures and write no file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        film = write_film("chaos-360p", width=640, height=360, duration_s=CLIPS * CLIP_S)
        outcomes = []
        for name, kills in (("calm", 0), ("killed", args.kills)):
            (Path(folder) / name).mkdir()
            with running(Path(folder) / name) as service:
                outcomes.append(analyse(service, film, kills, random.Random(args.seed)))
    calm, killed = outcomes
    told = collections.Counter(event["index"] for event in killed.events if event["event"] == "clip")
    redone = killed.calls - CLIPS
    figures = {
        "kills": args.kills,
        "clips": len(killed.result["clips"]),
        "engine calls, calm": calm.calls,
        "engine calls, killed": killed.calls,
        "attempts": killed.result["attempts"],
        "work goes on, median s": round(sorted(killed.resumed_s)[len(killed.resumed_s) // 2], 2),
    }
    bars = {
        "clips told exactly once": Bar(sum(count == 1 for count in told.values()) / CLIPS, 1.0, "share"),
        "clips described": Bar(sum("text" in clip for clip in killed.result["clips"]) / CLIPS, 1.0, "share"),
        "event ids without a gap": Bar(
            float([event["id"] for event in killed.events] == list(range(1, len(killed.events) + 1))), 1.0, "yes"
        ),
        "timeline equal to the undisturbed one, byte for byte": Bar(
            float(timeline(killed.result) == timeline(calm.result)), 1.0, "yes"
        ),
        "clips done again for each kill": Bar(redone / args.kills, float(IN_FLIGHT), "clips", better="lower"),
        "work goes on after a restart, slowest": Bar(max(killed.resumed_s), 60.0, "s", better="lower"),
    }
    if args.dry_run:
        print(figures, {name: (bar.value, bar.holds) for name, bar in bars.items()})
        return
    write_result(
        "chaos",
        figures,
        bars,
        model=f"simulated, {CLIP_ENGINE_S:g} s a clip",
        shape=f"{args.kills} kills of every process in an analysis of {CLIPS} clips, {IN_FLIGHT} in flight",
    )


if __name__ == "__main__":
    main()
