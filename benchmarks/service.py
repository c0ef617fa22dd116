"""A `vidray serve` of a benchmark's own: started, asked, and killed with all its processes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import yaml

MODEL = "sim"
START_DEADLINE_S = 180.0
_MARK = "VIDRAY_BENCHMARK"


def simulated_args(folder: Path, *, clip_engine_s: float, in_flight: int) -> dict[str, Any]:
    """Return the app's arguments for a simulated engine that takes so long a clip and logs its calls in `folder`."""
    simulated = {"fixed_s": clip_engine_s, "frame_s": 0.0, "call_log": str(folder / "calls")}
    return {
        "default_model": MODEL,
        "models": {MODEL: {"engine": "simulated", "simulated": simulated}},
        "in_flight_clips": in_flight,
    }


@dataclass(slots=True)
class Service:
    """The command on a port and a storage of its own, in `folder`; its processes carry a mark in their environment.

    The storage is in `storage`, the engine's calls are in `calls`, what it prints is in `serve.log`.
    """

    folder: Path
    args: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it; whether it answers is for the caller to find out."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = self.folder / "config.yaml"
        config.write_text(yaml.safe_dump(self._config()))
        command = [str(Path(sys.executable).parent / "vidray"), "serve", "--config", str(config)]
        environment = os.environ | self.environment | {_MARK: self.mark}
        with (self.folder / "serve.log").open("a") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def _config(self) -> dict[str, Any]:
        none = {"ray_actor_options": {"num_cpus": 0}}
        app = {
            "name": "vidray",
            "route_prefix": "/",
            "import_path": "serve_app.app:build_app",
            "args": {**self.args, "storage": {"target": str(self.storage)}},
            "deployments": [
                {"name": "gateway", **none},
                {"name": "runner", **none},
                *(
                    {"name": f"vision-{model}", **none, "user_config": {"max_batch_clips": 1}}
                    for model in self.args["models"]
                ),
            ],
        }
        return {
            "http_options": {"host": "127.0.0.1", "port": self.port},
            "logging_config": {"encoding": "JSON", "enable_access_log": False},  # as serve_config.yaml has it
            "applications": [app],
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def engine_calls(self) -> int:
        """How many clips the engine was asked for."""
        return len((self.folder / "calls").read_text().splitlines())

    @property
    def outcomes(self) -> int:
        """How many outcomes are recorded, read from the disk: also while nobody answers."""
        return sum(1 for _ in self.storage.glob("owners/*/analyses/*/clips/*/*.json"))

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
        if self.process is not None:
            self.process.wait()

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """Return the JSON that answers a call, made again until it is answered."""
        give_up_s = time.monotonic() + START_DEADLINE_S
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                answer = httpx2.request(method, f"{self.url}{path}", timeout=30.0, **options)
                if answer.status_code < 500:
                    answer.raise_for_status()
                    return answer.json()
            if time.monotonic() > give_up_s:
                raise RuntimeError(
                    f"expected an answer within {START_DEADLINE_S:g} s, got none: {self.folder}/serve.log"
                )
            time.sleep(0.1)

    def upload(self, film: Path) -> str:
        """Return the id of a video that is stored now."""
        file_id: str = self.ask("POST", "/v1/files", files={"file": (film.name, film.read_bytes())})["id"]
        return file_id

    def finished(self, analysis: str, *, deadline_s: float) -> dict[str, Any]:
        """Return an analysis (its path) once it is done. Raises RuntimeError after `deadline_s`."""
        give_up_s = time.monotonic() + deadline_s
        while True:
            now: dict[str, Any] = self.ask("GET", analysis)
            if now["finished_at"] is not None:
                return now
            if time.monotonic() > give_up_s:
                raise RuntimeError(f"expected an analysis that ends within {deadline_s:g} s, got {now['progress']}")
            time.sleep(0.2)

    def events(self, analysis: str) -> list[dict[str, Any]]:
        """Return all events of an analysis (its path) that is done, as it tells them over SSE."""
        text = httpx2.get(f"{self.url}{analysis}/events", timeout=60.0).text
        return [
            json.loads(line.removeprefix("data: ")) | {"event": kind.removeprefix("event: "), "id": int(number[4:])}
            for number, kind, line in (block.split("\n") for block in text.split("\n\n") if block.startswith("id: "))
        ]


@contextlib.contextmanager
def running(folder: Path, args: Mapping[str, Any], **environment: str) -> Iterator[Service]:
    """Give a started service; nothing of it is left at the end."""
    service = Service(folder, args, environment)
    try:
        service.start()
        yield service
    finally:
        service.kill()
