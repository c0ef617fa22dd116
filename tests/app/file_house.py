"""Files and uploads in a store, without HTTP and without a decoder."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from obstore.store import ObjectStore

from deployments.errors import UnreadableVideo
from pipelines.store import sizes_below
from pipelines.video import VideoInfo
from serve_app.files import Files
from serve_app.principal import Principal, Role
from serve_app.stored_file import Naming, StoredFile
from serve_app.uploads import Uploads

ANN, BOB = Principal("ann", Role.ANALYST), Principal("bob", Role.ANALYST)
NAMING = Naming("v.mp4")
VIDEO = VideoInfo(1.0, 64, 48, 25.0, 0, "h264", False, 0.0)


class House:
    """Files and uploads in one store, with a prober that takes whatever begins with `video`."""

    def __init__(self, store: ObjectStore, keep_s: int | None = None) -> None:
        self.store = store
        self.files = Files(store, self._probe, max_bytes=1000, keep_s=keep_s)
        self.uploads = Uploads(store, self.files, max_part_bytes=100, ttl_s=600)

    async def _probe(self, path: Path) -> VideoInfo:
        await asyncio.sleep(0.01)
        if not path.read_bytes().startswith(b"video"):
            raise UnreadableVideo("no video")
        return VIDEO

    async def add(self, content: bytes, principal: Principal = ANN, naming: Naming = NAMING) -> StoredFile:
        return await self.files.add(principal, naming, pieces(content))

    async def kinds(self) -> list[str]:
        return sorted(path.split("/")[2] for path in await sizes_below(self.store, "owners"))


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content
