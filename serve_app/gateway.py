"""The ingress replica: the HTTP app with its services reached through Serve handles."""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from obstore.store import ObjectStore
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.chat.client import EmbeddingClient
from deployments.chat.contracts import Embedder
from deployments.errors import AppError
from deployments.native_heap import return_large_blocks, share_arenas
from deployments.ray_errors import answer_of
from deployments.vision.catalog import model_info
from deployments.vision.client import VisionClient
from deployments.vision.deployment import ModelStatus
from pipelines.probes import Probes
from serve_app.analyses.service import Analyses
from serve_app.api.app import create_app
from serve_app.chat.service import Chats
from serve_app.chat_models import chat_models
from serve_app.draining import Draining
from serve_app.figures import UploadFigures
from serve_app.files import Files
from serve_app.janitor import Swept, sweep_forever
from serve_app.principal import LOCAL, Principal
from serve_app.replica_stop import until_stopping
from serve_app.replicas import count_replicas
from serve_app.settings import MODEL, AppArgs
from serve_app.short_calls import ShortCalls
from serve_app.sources import Sources
from serve_app.stats import Statistics, StatsSources
from serve_app.storage import open_storage, until_in_use
from serve_app.uploads import Uploads

logger = logging.getLogger("ray.serve.vidray.gateway")

_STATUS_DEADLINE_S = 2.0
_NUDGE_S = 0.2


class Gateway:
    """A plain class: `build_app` makes it the app's ingress deployment."""

    def __init__(
        self,
        args: AppArgs,
        runner: "DeploymentHandle[Any]",
        chat: "DeploymentHandle[Any] | None",
        **models: "DeploymentHandle[Any]",
    ) -> None:
        # Bodies of many MiB come and go here: their memory goes back to the kernel, not into a hundred threads' heaps.
        return_large_blocks()
        share_arenas(2)
        self._args = args
        self._runner = runner
        self._chat = chat
        self._clients = {name.removeprefix(MODEL): VisionClient(handle) for name, handle in models.items()}
        self._last_known: dict[str, ModelStatus] = {}
        self._probes = Probes()
        self._started_s = time.monotonic()
        self.draining = Draining()
        self._upload_figures = UploadFigures(pending=None, counted_at=None)
        self._untold = False
        self._telling: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> Any:
        app = create_app(self, admission=self._args.admission, behind_proxy=True)
        app.add_middleware(ShortCalls)
        return app

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        beside = [asyncio.create_task(self._sweep()), asyncio.create_task(self._drain_when_stopped())]
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
            await asyncio.to_thread(self._probes.close)

    async def drain(self, deadline_s: float) -> int:
        """Be ready no more, let watchers go, and return once nothing is in flight: 0, or how many still are by then."""
        self.draining.begin()
        return await self.draining.until_idle(deadline_s)

    async def _drain_when_stopped(self) -> None:
        await until_stopping()
        self.draining.begin()

    @functools.cached_property
    def _store(self) -> ObjectStore:
        return open_storage(self._args.storage)

    @functools.cached_property
    def files(self) -> Files:
        storage = self._args.storage
        return Files(self._store, self._probes.probe, max_bytes=storage.max_file_bytes, keep_s=storage.keep_files_s)

    @functools.cached_property
    def uploads(self) -> Uploads:
        storage = self._args.storage
        return Uploads(self._store, self.files, max_part_bytes=storage.max_part_bytes, ttl_s=storage.upload_ttl_s)

    @functools.cached_property
    def sources(self) -> Sources:
        return Sources(self._args.sources, max_bytes=self._args.storage.max_file_bytes)

    @functools.cached_property
    def analyses(self) -> Analyses:
        infos = {name: model_info(name, settings) for name, settings in self._args.models.items()}
        return Analyses(self._store, self.files, infos, self._nudge, self._args.admission.queued_analyses)

    @functools.cached_property
    def chats(self) -> Chats:
        providers = chat_models(self._args.chat, self._chat, self._clients)
        return Chats(self._store, self.analyses, providers, self._args.chat, self._look_again, self._embedder)

    @property
    def _embedder(self) -> Embedder | None:
        settings = self._args.chat.embeddings
        return None if settings is None or self._chat is None else EmbeddingClient(settings, self._chat)

    async def _look_again(
        self, principal: Principal, analysis_id: str, clips: Sequence[int], question: str
    ) -> dict[int, str]:
        asking = self._runner.look_again.remote(principal.owner, analysis_id, clips, question)
        seen: dict[int, str] = await answer_of(asking)
        return seen

    @functools.cached_property
    def stats(self) -> Statistics:
        sources = StatsSources(
            self.files, self.analyses, self.model_statuses, count_replicas, uploads=lambda: self._upload_figures
        )
        return Statistics(self._store, sources, started_s=self._started_s)

    @property
    def default_model(self) -> str:
        return self._args.default_model

    @property
    def host_names(self) -> tuple[str, ...]:
        return self._args.host_names

    async def _nudge(self) -> None:
        """Have the runner told; no client waits for that, and one call tells of all that came before it."""
        self._untold = True
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_runner())

    async def _tell_runner(self) -> None:
        while self._untold:
            self._untold = False
            try:
                async with asyncio.timeout(_NUDGE_S):
                    await self._runner.nudge.remote()
            except (TimeoutError, RayError, RayServeException) as error:
                # It looks at the queue by itself soon.
                logger.warning("runner cannot be told of new work", exc_info=error)

    async def _sweep(self) -> None:
        every_s = self._args.storage.sweep_every_s
        await until_in_use(self._args.storage, poll_s=every_s)
        await sweep_forever(self._store, self.files, self.uploads, every_s=every_s, on_swept=self._swept)

    def _swept(self, swept: Swept) -> None:
        self._upload_figures = UploadFigures(pending=swept.pending_uploads, counted_at=time.time())

    async def principal(self, authorization: str | None) -> Principal:
        # No keys are configured: whoever reaches the service is the one who runs it.
        return LOCAL

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
