"""The ingress replica: the HTTP app with its services reached through Serve handles."""

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from obstore.store import ObjectStore
from ray.serve.handle import DeploymentHandle

from deployments.errors import AppError
from deployments.vision.catalog import model_info
from deployments.vision.client import VisionClient
from deployments.vision.deployment import ModelStatus
from pipelines.sandbox import Sandbox
from pipelines.store import open_store
from pipelines.video import VideoInfo
from serve_app.api.app import create_app
from serve_app.files import Files
from serve_app.janitor import sweep_forever
from serve_app.principal import LOCAL, Principal
from serve_app.settings import AppArgs
from serve_app.uploads import Uploads

_STATUS_DEADLINE_S = 2.0
MODEL = "model:"
"""What the keyword argument with a model's handle begins with, so that no model's name is one of Python's."""


class Gateway:
    """A plain class: `build_app` makes it the app's ingress deployment."""

    def __init__(self, args: AppArgs, **models: "DeploymentHandle[Any]") -> None:
        self._args = args
        self._clients = {name.removeprefix(MODEL): VisionClient(handle) for name, handle in models.items()}
        self._last_known: dict[str, ModelStatus] = {}
        self._sandbox = Sandbox()
        self._target = os.path.expanduser(args.storage.target)

    def __serve_build_asgi_app__(self) -> Any:
        return create_app(self, behind_proxy=True)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            sweeping.cancel()
            await asyncio.to_thread(self._sandbox.close)

    @functools.cached_property
    def _store(self) -> ObjectStore:
        return open_store(self._target)

    @functools.cached_property
    def files(self) -> Files:
        storage = self._args.storage
        return Files(self._store, self._probe, max_bytes=storage.max_file_bytes, keep_s=storage.keep_files_s)

    @functools.cached_property
    def uploads(self) -> Uploads:
        storage = self._args.storage
        return Uploads(self._store, self.files, max_part_bytes=storage.max_part_bytes, ttl_s=storage.upload_ttl_s)

    async def _sweep(self) -> None:
        every_s = self._args.storage.sweep_every_s
        # No directory is made before it is used: `vidray analyze` runs this app, too, and keeps nothing here.
        while "://" not in self._target and not Path(self._target).exists():  # noqa: ASYNC110 (nobody here makes it)
            await asyncio.sleep(every_s)
        await sweep_forever(self._store, self.files, self.uploads, every_s=every_s)

    async def principal(self, authorization: str | None) -> Principal:
        # No keys are configured: whoever reaches the service is the one who runs it.
        return LOCAL

    async def _probe(self, path: Path) -> VideoInfo:
        # Threads take turns at the one decoder process.
        return await asyncio.to_thread(self._sandbox.probe, path)

    async def model_statuses(self) -> list[ModelStatus]:
        default = self._args.default_model
        names = [default, *sorted(set(self._clients) - {default})]
        return list(await asyncio.gather(*map(self._status, names)))

    async def _status(self, name: str) -> ModelStatus:
        settings = self._args.models[name]
        unknown = ModelStatus(model_info(name, settings), "loading", 0, loads_on_first_use=False)
        try:
            async with asyncio.timeout(_STATUS_DEADLINE_S):
                self._last_known[name] = await self._clients[name].status()
        except TimeoutError:
            # Its queue is full of clips, which a model that cannot serve would not have.
            return self._last_known.get(name, unknown)
        except AppError:
            # No replica answers: it is starting, or gone and about to be replaced.
            return unknown
        return self._last_known[name]
