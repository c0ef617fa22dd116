"""The services behind the HTTP app without Ray: real files and uploads in any store, models and keys made up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from obstore.store import ObjectStore

from deployments.vision.deployment import ModelStatus
from pipelines.sandbox import Sandbox
from pipelines.video import VideoInfo
from serve_app.files import Files
from serve_app.principal import LOCAL, Principal, Role
from serve_app.uploads import Uploads

MAX_FILE_BYTES, MAX_PART_BYTES, TTL_S = 400_000, 100_000, 3600


class FakeServices:
    """`Authorization: Bearer OWNER ROLE` says who asks; without one it is the local principal."""

    def __init__(self, store: ObjectStore, *statuses: ModelStatus) -> None:
        self.sandbox = Sandbox()
        self.files = Files(store, self._probe, max_bytes=MAX_FILE_BYTES)
        self.uploads = Uploads(store, self.files, max_part_bytes=MAX_PART_BYTES, ttl_s=TTL_S)
        self.statuses = list(statuses)
        self.error: Exception | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self.sandbox.close()

    async def principal(self, authorization: str | None) -> Principal:
        if authorization is None:
            return LOCAL
        _, owner, role = authorization.split()
        return Principal(owner, Role[role.upper()])

    async def _probe(self, path: Path) -> VideoInfo:
        return await asyncio.to_thread(self.sandbox.probe, path)

    async def model_statuses(self) -> list[ModelStatus]:
        if self.error:
            raise self.error
        return self.statuses
