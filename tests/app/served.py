"""The app on a port of its own, in a thread, with a made-up model and no Ray: what commands and browsers speak to."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import uvicorn
from obstore.store import ObjectStore

from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.deployment import ModelStatus
from pipelines.store import open_store
from serve_app.api.app import create_app
from tests.app.fakes import FakeServices
from tests.ray_cluster import free_port

SIM = ModelStatus(model_info("sim", VisionSettings(engine="simulated")), "ready", 0, loads_on_first_use=False)


class Services(FakeServices):
    """Services that know the loop they run in."""

    loop: asyncio.AbstractEventLoop

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.loop = asyncio.get_running_loop()
        async with super().running():
            yield


class Served:
    """The app over a store in `folder`, from `start` to `stop`, as often as one likes; `made` changes its services.

    `models`, the default one first, are those of the next start.
    """

    def __init__(
        self, folder: Path, made: Callable[[Services], None] = lambda _: None, models: Sequence[ModelStatus] = (SIM,)
    ) -> None:
        self.store: ObjectStore = open_store(str(folder / "store"))
        self._made, self.models = made, models
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        self.services = Services(self.store, *self.models)
        self._made(self.services)
        self._server = uvicorn.Server(
            uvicorn.Config(create_app(self.services), port=self._port, log_config=None, timeout_graceful_shutdown=1)
        )
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def hold(self) -> None:
        """Have the model wait for `let`."""
        self.services.model.held = True

    def let(self, clips: int) -> None:
        """Have the held model answer so many clips more."""
        for _ in range(clips):
            self.services.loop.call_soon_threadsafe(self.services.model.permits.release)

    def upload(self, video: Path) -> str:
        """Return the id of the stored file."""
        with httpx2.Client(base_url=self.url, timeout=60.0) as http, video.open("rb") as content:
            answer = http.post("/v1/files", files={"file": (video.name, content)}).raise_for_status()
        identifier: str = answer.json()["id"]
        return identifier

    def analyse(self, video: Path, **options: object) -> str:
        """Return the id of an analysis that has begun."""
        body = {"file_id": self.upload(video), **options}
        answer = httpx2.post(f"{self.url}/v1/analyses", json=body, timeout=60.0).raise_for_status()
        identifier: str = answer.json()["id"]
        return identifier

    def ended(self, analysis: str) -> None:
        """Wait until the analysis is done."""
        httpx2.get(f"{self.url}/v1/analyses/{analysis}/events", timeout=60.0).raise_for_status()
