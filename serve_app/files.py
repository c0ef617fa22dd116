"""The videos that people have uploaded: each owner's bytes stored once, whatever they were called.

    owners/{owner}/files/{file_id}.json       what is known of a file: created last, so that who sees it sees all of it
    owners/{owner}/sha256/{sha256}            the id of the owner's file with these bytes: created first
    owners/{owner}/sources/{source}           the bytes; each writer has a source of its own, which the file names
    owners/{owner}/keeps/{file_id}/{until}    that the same bytes came again, to be kept for longer

The same bytes sent again are the same file: it is kept for the longest time that any upload of them asked for, and a
shorter one takes nothing from it. Deleting it is for all of them. What changes the store goes on to its end, also when
the client cuts its request. Another owner's file is not found, like one that never was.
"""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from obstore.store import ObjectStore

from deployments.errors import InvalidInput, NotFound, StorageFull
from pipelines import store as objects
from pipelines.ids import is_id, new_id
from pipelines.video import VideoInfo
from serve_app.counted import Counted
from serve_app.principal import Principal
from serve_app.retention import Retention, longest
from serve_app.stored_file import Naming, StoredFile
from serve_app.to_the_end import to_the_end

Probe = Callable[[Path], Awaitable[VideoInfo]]
"""Says what is really in a file; raises UnreadableVideo or FrameTooLarge."""
_READS_AT_ONCE = 32
_MIN_FREE_BYTES = 1 << 30
"""Room that is kept on a local store for the ledger's own facts, which are small: what was accepted must end."""
_LOOK_EVERY_BYTES = 4 << 20
"""What comes in looks so often whether that room is still there: many may share what there was when they began."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some of an owner's files, and whether more follow."""

    files: list[StoredFile]
    has_more: bool


class Files:
    """Every owner's files in one store: at most `max_bytes` each, kept for `keep_s` seconds (None: until deleted)."""

    def __init__(self, store: ObjectStore, probe: Probe, *, max_bytes: int, keep_s: int | None = None) -> None:
        self._store = store
        self._probe = probe
        self.max_bytes = max_bytes
        self._keep_s = keep_s

    async def add(
        self, principal: Principal, naming: Naming, content: AsyncIterable[bytes], size_bytes: int | None = None
    ) -> StoredFile:
        """Store a video while it comes in; the owner's file of the same bytes, if there is one, is returned instead.

        `size_bytes` is what the content is said to have, where anybody says so: room is looked for before it comes in.
        Raises TooLarge, UnreadableVideo, FrameTooLarge, StorageFull, StorageFailed and whatever `content` raises;
        nothing is left behind then.
        """
        source = f"{_below(principal)}sources/{new_id('source')}"
        self.require_room(size_bytes or 0)
        counted = Counted(self.within_room(content), self.max_bytes)
        try:
            await objects.put(self._store, source, counted)
        except BaseException:
            # Also when the client went away: the bytes are nobody's.
            await to_the_end(objects.delete(self._store, source))
            raise
        return await to_the_end(self._settle(principal, naming, counted, source))

    async def _settle(self, principal: Principal, naming: Naming, counted: Counted, source: str) -> StoredFile:
        """Make the bytes a file, or remove them."""
        sha256 = counted.digest.hexdigest()
        try:
            file = await self._record(principal, naming, counted, source)
        except BaseException:
            # A record whose writing was not acknowledged may stand, and then these are its bytes.
            known = await self._known(principal, sha256)
            if not isinstance(known, StoredFile) or known.source != source:
                await objects.delete(self._store, source)
            raise
        if file.source != source:
            await objects.delete(self._store, source)
        return file

    async def _record(self, principal: Principal, naming: Naming, counted: Counted, source: str) -> StoredFile:
        sha256, now = counted.digest.hexdigest(), int(time.time())
        limits_s = [keep_s for keep_s in (naming.keep_s, self._keep_s) if keep_s is not None]
        until = now + min(limits_s) if limits_s else None
        video: VideoInfo | None = None
        while True:
            known = await self._known(principal, sha256)
            if isinstance(known, StoredFile):
                if await self._is_kept(principal, known, until):
                    return await self.get(principal, known.id)
                continue  # it was removed in this very moment
            video = video or await self._probed(naming, source)
            # A marker without a file is that of an upload that is about to end, or that died: its id is used then.
            file_id = known or new_id("file")
            if not await objects.create(self._store, _marker_path(principal, sha256), file_id.encode()) and not known:
                continue  # another upload of the same bytes was first
            file = StoredFile(
                id=file_id,
                owner=principal.owner,
                filename=naming.filename,
                purpose=naming.purpose,
                size_bytes=counted.size_bytes,
                sha256=sha256,
                created_at=now,
                expires_at=until,
                video=video,
                source=source,
            )
            if await objects.create(self._store, _record_path(principal, file_id), file.dumps()):
                return file

    async def _probed(self, naming: Naming, source: str) -> VideoInfo:
        async with objects.local_file(self._store, source) as path:
            try:
                return await self._probe(path)
            except InvalidInput as error:
                # The prober names the file as it lies here, which the client has never heard of.
                raise type(error)(error.message.replace(path.name, naming.filename)) from error

    async def _is_kept(self, principal: Principal, file: StoredFile, until: int | None) -> bool:
        """Have the file kept until then at least; return whether it is still there."""
        if file.expires_at is None or (until is not None and until <= file.expires_at):
            return True
        retention = Retention(self._store, principal.owner)
        await retention.extend(file.id, until)
        # Who removes it takes the marker first and looks for such a wish after that: one of both sees the other.
        if await objects.find(self._store, _marker_path(principal, file.sha256)) == file.id.encode():
            return True
        await retention.forget(file.id)
        return False

    async def _dated(self, principal: Principal, file: StoredFile) -> StoredFile:
        until = await Retention(self._store, principal.owner).until(file.id, file.expires_at)
        return replace(file, expires_at=until)

    async def _known(self, principal: Principal, sha256: str) -> StoredFile | str | None:
        """Return the owner's file of these bytes, or the id that it is to have, or nothing."""
        marker = await objects.find(self._store, _marker_path(principal, sha256))
        if marker is None:
            return None
        record = await objects.find(self._store, _record_path(principal, marker.decode()))
        return marker.decode() if record is None else await self._dated(principal, StoredFile.loads(record))

    async def get(self, principal: Principal, file_id: str) -> StoredFile:
        """Return the owner's file. Raises NotFound."""
        record = await objects.find(self._store, _record_path(principal, file_id)) if is_id(file_id, "file") else None
        if record is None:
            raise NotFound(f"expected one of your files, got {file_id!r}", param="file_id")
        return await self._dated(principal, StoredFile.loads(record))

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
        names = (path.rsplit("/", 1)[-1].removesuffix(".json") for path in paths)
        ids = sorted((name for name in names if is_id(name, "file")), reverse=order == "desc")
        keeps = await Retention(self._store, principal.owner).all()
        if after is not None:
            ids = [one for one in ids if (one < after if order == "desc" else one > after)]
        files: list[StoredFile] = []
        for at in range(0, len(ids), _READS_AT_ONCE):
            some = (objects.find(self._store, _record_path(principal, one)) for one in ids[at : at + _READS_AT_ONCE])
            found = [StoredFile.loads(record) for record in await asyncio.gather(*some) if record is not None]
            dated = (replace(file, expires_at=longest(keeps.get(file.id, []), file.expires_at)) for file in found)
            files += [file for file in dated if purpose in (None, file.purpose)]
            if len(files) > limit:
                break
        return Page(files[:limit], len(files) > limit)

    async def delete(self, principal: Principal, file_id: str) -> None:
        """Remove the owner's file. Raises NotFound."""
        file = await self.get(principal, file_id)
        await to_the_end(self._delete(principal, file))

    async def _delete(self, principal: Principal, file: StoredFile) -> None:
        # The marker first: an upload of the same bytes from here on gets a file of its own.
        await self._unmark(principal, file)
        await objects.delete(self._store, _record_path(principal, file.id))
        await Retention(self._store, principal.owner).forget(file.id)
        await objects.delete(self._store, file.source)

    async def _unmark(self, principal: Principal, file: StoredFile) -> None:
        marker = _marker_path(principal, file.sha256)
        if await objects.find(self._store, marker) == file.id.encode():  # else it is a later file's
            await objects.delete(self._store, marker)

    async def remove_if_over(self, principal: Principal, file_id: str, now_s: float) -> StoredFile | None:
        """Remove a file that expired before `now_s`; return one that stays, None when there is none (any more)."""
        try:
            file = await self.get(principal, file_id)
            if file.expires_at is None or file.expires_at > now_s:
                return file
            await self._unmark(principal, file)
            file = await self.get(principal, file_id)
        except NotFound:
            return None  # deleted meanwhile
        if file.expires_at is None or file.expires_at > now_s:
            # The same bytes came again in this very moment, to be kept for longer.
            await objects.create(self._store, _marker_path(principal, file.sha256), file.id.encode())
            return file
        await self._delete(principal, file)
        return None

    def content(self, file: StoredFile, start: int, end: int) -> AsyncIterator[bytes]:
        """Yield the file's bytes [start, end), end > start."""
        return objects.stream(self._store, file.source, start, end)

    async def within_room(self, content: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """Yield the content; raise StorageFull as soon as it takes from what must always be left."""
        since_look = 0
        async for chunk in content:
            since_look += len(chunk)
            if since_look >= _LOOK_EVERY_BYTES:
                self.require_room(len(chunk))
                since_look = 0
            yield chunk

    def require_room(self, wanted_bytes: int) -> None:
        """Raise StorageFull when a local store has no room for this and what must always be left."""
        free_bytes = objects.free_bytes(self._store)
        if free_bytes is not None and free_bytes - wanted_bytes < _MIN_FREE_BYTES:
            raise StorageFull(
                f"expected room for {wanted_bytes} bytes beside {_MIN_FREE_BYTES >> 20} MiB kept free, got "
                f"{free_bytes} bytes in all"
            )


def _below(principal: Principal) -> str:
    return f"owners/{principal.owner}/"


def _marker_path(principal: Principal, sha256: str) -> str:
    return f"{_below(principal)}sha256/{sha256}"


def _record_path(principal: Principal, file_id: str) -> str:
    return f"{_below(principal)}files/{file_id}.json"
