"""The videos that people have uploaded: each owner's bytes stored once, whatever they were called.

    owners/{owner}/files/{file_id}.json       what is known of a file: created last, so that who sees it sees all of it
    owners/{owner}/sha256/{sha256}            the id of the owner's file with these bytes: created first
    owners/{owner}/sources/{source}           the bytes; each writer has a source of its own, which the file names

Another owner's file is not found, like one that never was.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from obstore.store import ObjectStore

from deployments.errors import InvalidInput, NotFound, StorageFull, TooLarge
from pipelines import store as objects
from pipelines.ids import is_id, new_id
from pipelines.video import VideoInfo
from serve_app.principal import Principal

Probe = Callable[[Path], Awaitable[VideoInfo]]
"""Says what is really in a file; raises UnreadableVideo or FrameTooLarge."""
_READS_AT_ONCE = 32
_MIN_FREE_BYTES = 1 << 30
"""Room that is kept on a local store for the ledger's own facts, which are small: what was accepted must end."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An uploaded video.

    `created_at` and `expires_at` are in seconds since 1970; `source` is the object that holds the bytes.
    """

    id: str
    owner: str
    filename: str
    purpose: str
    size_bytes: int
    sha256: str
    created_at: int
    expires_at: int | None
    video: VideoInfo
    source: str

    def dumps(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False, indent=1).encode()

    @classmethod
    def loads(cls, data: bytes) -> Self:
        fields: dict[str, Any] = json.loads(data)
        return cls(**{**fields, "video": VideoInfo(**fields["video"])})


@dataclass(frozen=True, slots=True)
class Page:
    """Some of an owner's files, and whether more follow."""

    files: list[StoredFile]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Naming:
    """What a client says of a file it sends; `keep_s` asks for it to be deleted after so many seconds."""

    filename: str
    purpose: str = "user_data"
    keep_s: int | None = None


class Files:
    """Every owner's files in one store: at most `max_bytes` each, kept for `keep_s` seconds (None: until deleted)."""

    def __init__(self, store: ObjectStore, probe: Probe, *, max_bytes: int, keep_s: int | None = None) -> None:
        self._store = store
        self._probe = probe
        self.max_bytes = max_bytes
        self._keep_s = keep_s

    async def add(self, principal: Principal, naming: Naming, content: AsyncIterable[bytes]) -> StoredFile:
        """Store a video while it comes in; the owner's file of the same bytes, if there is one, is returned instead.

        Raises TooLarge, UnreadableVideo, FrameTooLarge, StorageFull, StorageFailed and whatever `content` raises;
        nothing is left behind then.
        """
        source = f"{_below(principal)}sources/{new_id('source')}"
        counted = _Counted(content, self.max_bytes)
        self.require_room(0)
        try:
            await objects.put(self._store, source, counted)
            file = await self._record(principal, naming, counted, source)
        except BaseException:
            # Also when the client went away: the bytes are nobody's. Shielded, so that the second cancel spares it.
            await asyncio.shield(objects.delete(self._store, source))
            raise
        if file.source != source:
            await objects.delete(self._store, source)
        return file

    async def _record(self, principal: Principal, naming: Naming, counted: "_Counted", source: str) -> StoredFile:
        sha256 = counted.digest.hexdigest()
        known = await self._known(principal, sha256)
        if isinstance(known, StoredFile):
            return known
        async with objects.local_file(self._store, source) as path:
            try:
                video = await self._probe(path)
            except InvalidInput as error:
                # The prober names the file as it lies here, which the client has never heard of.
                raise type(error)(error.message.replace(path.name, naming.filename)) from error
        marker = f"{_below(principal)}sha256/{sha256}"
        # A marker without a file is that of an upload that is about to end, or that died: its id is used either way.
        file_id = known or new_id("file")
        if not known and not await objects.create(self._store, marker, file_id.encode()):
            file_id = (await objects.get(self._store, marker)).decode()
        now = int(time.time())
        limits_s = [keep_s for keep_s in (naming.keep_s, self._keep_s) if keep_s is not None]
        file = StoredFile(
            id=file_id,
            owner=principal.owner,
            filename=naming.filename,
            purpose=naming.purpose,
            size_bytes=counted.size_bytes,
            sha256=sha256,
            created_at=now,
            expires_at=now + min(limits_s) if limits_s else None,
            video=video,
            source=source,
        )
        if await objects.create(self._store, _record_path(principal, file_id), file.dumps()):
            return file
        return await self.get(principal, file_id)

    async def _known(self, principal: Principal, sha256: str) -> StoredFile | str | None:
        """Return the owner's file of these bytes, or the id that it is to have, or nothing."""
        marker = await objects.find(self._store, f"{_below(principal)}sha256/{sha256}")
        if marker is None:
            return None
        record = await objects.find(self._store, _record_path(principal, marker.decode()))
        return marker.decode() if record is None else StoredFile.loads(record)

    async def get(self, principal: Principal, file_id: str) -> StoredFile:
        """Return the owner's file. Raises NotFound."""
        record = await objects.find(self._store, _record_path(principal, file_id)) if is_id(file_id, "file") else None
        if record is None:
            raise NotFound(f"expected one of your files, got {file_id!r}", param="file_id")
        return StoredFile.loads(record)

    async def page(
        self,
        principal: Principal,
        *,
        after: str | None,
        limit: int,
        order: Literal["asc", "desc"],
        purpose: str | None = None,
    ) -> Page:
        """Return at most `limit` of the owner's files by the time they were made, those behind the id `after`."""
        paths = await objects.sizes_below(self._store, f"{_below(principal)}files")
        ids = sorted((path.rsplit("/", 1)[-1].removesuffix(".json") for path in paths), reverse=order == "desc")
        if after is not None:
            ids = [one for one in ids if (one < after if order == "desc" else one > after)]
        files: list[StoredFile] = []
        for at in range(0, len(ids), _READS_AT_ONCE):
            some = (objects.find(self._store, _record_path(principal, one)) for one in ids[at : at + _READS_AT_ONCE])
            found = [StoredFile.loads(record) for record in await asyncio.gather(*some) if record is not None]
            files += [file for file in found if purpose in (None, file.purpose)]
            if len(files) > limit:
                break
        return Page(files[:limit], len(files) > limit)

    async def delete(self, principal: Principal, file_id: str) -> None:
        """Remove the owner's file. Raises NotFound."""
        file = await self.get(principal, file_id)
        # The marker first: an upload of the same bytes from here on gets a file of its own.
        for path in (f"{_below(principal)}sha256/{file.sha256}", _record_path(principal, file_id), file.source):
            await objects.delete(self._store, path)

    def content(self, file: StoredFile, start: int, end: int) -> AsyncIterator[bytes]:
        """Yield the file's bytes [start, end), end > start."""
        return objects.stream(self._store, file.source, start, end)

    def require_room(self, wanted_bytes: int) -> None:
        """Raise StorageFull when a local store has no room for this and what must always be left."""
        free_bytes = objects.free_bytes(self._store)
        if free_bytes is not None and free_bytes - wanted_bytes < _MIN_FREE_BYTES:
            raise StorageFull(
                f"expected room for {wanted_bytes} bytes beside {_MIN_FREE_BYTES >> 20} MiB kept free, got "
                f"{free_bytes} bytes in all"
            )


class _Counted:
    """Bytes on their way, counted and hashed. Raises TooLarge as soon as there are more than `limit_bytes`."""

    def __init__(self, content: AsyncIterable[bytes], limit_bytes: int) -> None:
        self._content = content
        self._limit_bytes = limit_bytes
        self.size_bytes = 0
        self.digest = hashlib.sha256()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._content:
            self.size_bytes += len(chunk)
            if self.size_bytes > self._limit_bytes:
                raise TooLarge(f"a file must have at most {self._limit_bytes} bytes, got more")
            # 1 MiB takes a millisecond, which the event loop can spare; a thread for it costs as much
            self.digest.update(chunk)
            yield chunk


def _below(principal: Principal) -> str:
    return f"owners/{principal.owner}/"


def _record_path(principal: Principal, file_id: str) -> str:
    return f"{_below(principal)}files/{file_id}.json"
