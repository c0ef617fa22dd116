"""The services behind the HTTP app without Ray: real files and uploads in any store, models and keys made up."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from obstore.store import ObjectStore

from deployments.chat.contracts import Embedder, Provider
from deployments.chat.extractive import NAME as EXTRACTIVE
from deployments.chat.extractive import Extractive
from deployments.chat.settings import ChatSettings
from deployments.contracts import LOCAL as LOCAL_MODEL
from deployments.contracts import Caption, DescribeRequest, ModelInfo
from deployments.errors import ClipRejected
from deployments.vision.deployment import ModelStatus
from deployments.vision.prompts import first_kind
from pipelines.describe import Describer
from pipelines.sandbox import Sandbox
from pipelines.video import VideoInfo
from serve_app.analyses.lease import Node
from serve_app.analyses.runner import Runner, RunnerSettings
from serve_app.analyses.service import Analyses
from serve_app.chat.evidence import Look
from serve_app.chat.service import Chats
from serve_app.draining import Draining
from serve_app.figures import UploadFigures
from serve_app.files import Files
from serve_app.principal import LOCAL, Principal, Role
from serve_app.settings import SourceSettings
from serve_app.sources import Sources
from serve_app.stats import Replicas, Statistics, StatsSources
from serve_app.uploads import Uploads

MAX_FILE_BYTES, MAX_PART_BYTES, TTL_S = 400_000, 100_000, 3600


class FakeModel:
    """Says `say` of when a clip begins; `bad` clips (by their start) are rejected; held, it answers as often as it may.

    Asked for events, it says `events` about every clip. A model outside sees the `outside` clips.
    """

    def __init__(self) -> None:
        self.calls: list[float] = []
        self.bad: set[float] = set()
        self.outside: set[float] = set()
        self.say: Callable[[float], str] = "{:g}".format
        self.events = "[]"
        self.held = False
        self.permits = asyncio.Semaphore(0)

    async def describe(self, request: DescribeRequest) -> Caption:
        start_s = float(request.frames.pts_s[0])
        self.calls.append(start_s)
        await asyncio.sleep(0.001)
        if self.held:
            await self.permits.acquire()
        if start_s in self.bad:
            raise ClipRejected("not this one")
        first, *others = (
            Caption(self.say(start_s) if first_kind(question.prompt) is None else self.events, 1, 1, "stop")
            for question in request.questions
        )
        served_by = "cloud:elsewhere" if start_s in self.outside else LOCAL_MODEL
        return replace(first, also=tuple(others), served_by=served_by)


class FakeServices:
    """`Authorization: Bearer OWNER ROLE` says who asks; without one it is the local principal."""

    def __init__(self, store: ObjectStore, *statuses: ModelStatus) -> None:
        self.host_names: Collection[str] | None = None
        self.sandbox = Sandbox()
        self.draining = Draining()
        self.model = FakeModel()
        self._store = store
        self.files = Files(store, self._probe, max_bytes=MAX_FILE_BYTES)
        self.uploads = Uploads(store, self.files, max_part_bytes=MAX_PART_BYTES, ttl_s=TTL_S)
        infos = {status.info.name: status.info for status in statuses}
        self.sources = Sources(SourceSettings(), max_bytes=MAX_FILE_BYTES)
        self.analyses = Analyses(store, self.files, infos, self._nudge)
        self.talk_by({EXTRACTIVE: Extractive()}, ChatSettings())
        self.default_model = next(iter(infos), "none")
        self.statuses = list(statuses)
        self.error: Exception | None = None
        self.lease_s = RunnerSettings().lease_s
        self.replicas = Replicas()
        self.upload_figures = UploadFigures(pending=None, counted_at=None)
        sources = StatsSources(
            self.files, self.analyses, self.model_statuses, self._replicas, uploads=lambda: self.upload_figures
        )
        self.stats = Statistics(store, sources, started_s=time.monotonic())

    def talk_by(
        self,
        providers: Mapping[str, Provider],
        settings: ChatSettings,
        look: Look | None = None,
        embedder: Embedder | None = None,
    ) -> None:
        self.chats = Chats(self._store, self.analyses, providers, settings, look, embedder)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        models: dict[str, tuple[ModelInfo, Describer]] = {
            one.info.name: (one.info, self.model) for one in self.statuses
        }
        settings = RunnerSettings(poll_s=0.05, report_s=0.0, lease_s=self.lease_s, beat_s=self.lease_s / 6)
        runner = Runner(self._store, models, Node("node", lambda: {"node": True}), settings)
        running = asyncio.create_task(runner.run_forever())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            self.sandbox.close()

    async def principal(self, authorization: str | None) -> Principal:
        if authorization is None:
            return LOCAL
        _, owner, role = authorization.split()
        return Principal(owner, Role[role.upper()])

    async def _nudge(self) -> None:
        pass

    async def _probe(self, path: Path) -> VideoInfo:
        return await asyncio.to_thread(self.sandbox.probe, path)

    async def _replicas(self) -> Replicas:
        return self.replicas

    async def model_statuses(self) -> list[ModelStatus]:
        if self.error:
            raise self.error
        return self.statuses
