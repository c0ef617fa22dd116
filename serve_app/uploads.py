"""Large videos in parts: sent in any order, several at a time, again when one was lost; put together at the end.

owners/{owner}/uploads/{upload_id}/upload.json        what was announced
owners/{owner}/uploads/{upload_id}/parts/{part_id}    the bytes of a part
owners/{owner}/uploads/{upload_id}/end.json           how it ended: created once, then the parts go
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from obstore.store import ObjectStore

from deployments.errors import InvalidOption, NotFound, StorageFailed, TooLarge, UploadConflict
from pipelines import store as objects
from pipelines.ids import is_id, new_id
from serve_app.files import Files
from serve_app.principal import Principal
from serve_app.stored_file import Naming, StoredFile
from serve_app.to_the_end import begun, shared, to_the_end
from serve_app.upload_bounds import left_bytes

State = Literal["pending", "completed", "cancelled", "expired"]


@dataclass(frozen=True, slots=True)
class Announced:
    """What a client said it would send. Times are in seconds since 1970."""

    id: str
    owner: str
    naming: Naming
    size_bytes: int
    created_at: int
    expires_at: int

    def dumps(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False, indent=1).encode()

    @classmethod
    def loads(cls, data: bytes) -> Self:
        fields: dict[str, Any] = json.loads(data)
        return cls(**{**fields, "naming": Naming(**fields["naming"])})


@dataclass(frozen=True, slots=True)
class Part:
    """One stored part."""

    id: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload as it stands; `parts` in the order in which they were begun, none once it has ended."""

    announced: Announced
    state: State
    parts: list[Part] = field(default_factory=list)
    file: StoredFile | None = None


class Uploads:
    """Every owner's uploads in one store. One that is not complete after `ttl_s` seconds has expired."""

    def __init__(self, store: ObjectStore, files: Files, *, max_part_bytes: int, ttl_s: int) -> None:
        self._store = store
        self._files = files
        self.max_part_bytes = max_part_bytes
        self._ttl_s = ttl_s
        self._completing: dict[tuple[str, str, tuple[str, ...], str | None], asyncio.Task[Upload]] = {}

    async def begin(self, principal: Principal, naming: Naming, size_bytes: int) -> Upload:
        """Announce a file of exactly `size_bytes`. Raises TooLarge, StorageFull."""
        if size_bytes > self._files.max_bytes:
            raise TooLarge(f"a file must have at most {self._files.max_bytes} bytes, got {size_bytes}", param="bytes")
        # The parts and what is made of them lie side by side for a moment.
        self._files.require_room(2 * size_bytes)
        now, upload_id = int(time.time()), new_id("upload")
        announced = Announced(upload_id, principal.owner, naming, size_bytes, now, now + self._ttl_s)
        await objects.create(self._store, f"{_below(principal, upload_id)}upload.json", announced.dumps())
        return Upload(announced, "pending")

    async def get(self, principal: Principal, upload_id: str) -> Upload:
        """Return the owner's upload with the parts that have arrived. Raises NotFound."""
        upload = await self._without_parts(principal, upload_id)
        if upload.state != "pending":
            return upload
        sizes = await objects.sizes_below(self._store, f"{_below(principal, upload_id)}parts")
        parts = [Part(path.rsplit("/", 1)[-1], size) for path, size in sizes.items()]
        return replace(upload, parts=sorted(parts, key=lambda part: part.id))

    async def _without_parts(self, principal: Principal, upload_id: str) -> Upload:
        if not is_id(upload_id, "upload"):
            raise _missing(upload_id)
        below = _below(principal, upload_id)
        record = await objects.find(self._store, f"{below}upload.json")
        if record is None:
            raise _missing(upload_id)
        announced = Announced.loads(record)
        end = await objects.find(self._store, f"{below}end.json")
        if end is not None:
            file_id = json.loads(end)["file_id"]
            if file_id is None:
                return Upload(announced, "cancelled")
            return Upload(announced, "completed", file=await self._file(principal, file_id))
        if announced.expires_at <= time.time():
            return Upload(announced, "expired")
        return Upload(announced, "pending")

    async def _file(self, principal: Principal, file_id: str) -> StoredFile | None:
        try:
            return await self._files.get(principal, file_id)
        except NotFound:
            return None  # deleted since

    async def add_part(self, principal: Principal, upload_id: str, content: AsyncIterable[bytes]) -> Part:
        """Store one part. Raises NotFound, UploadConflict, TooLarge, StorageFull, and whatever `content` raises.

        More parts than `left_bytes` allows are TooLarge; those under way at the same time do not count yet.
        """
        upload = _require_pending(await self.get(principal, upload_id))
        sizes = [part.size_bytes for part in upload.parts]
        limit_bytes = left_bytes(upload.announced.size_bytes, sizes, self.max_part_bytes)
        part_id, size = new_id("part"), 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            async for chunk in content:
                size += len(chunk)
                if size > limit_bytes:
                    raise TooLarge(f"a part must have at most {limit_bytes} bytes, got more", param="data")
                yield chunk

        self._files.require_room(limit_bytes)
        path = f"{_below(principal, upload_id)}parts/{part_id}"
        await objects.put(self._store, path, self._files.within_room(counted()))
        try:
            await self.require_pending(principal, upload_id)
        except (NotFound, UploadConflict):
            # It ended or expired meanwhile, and its parts may have been removed before this one came.
            await to_the_end(objects.delete(self._store, path))
            raise
        return Part(part_id, size)

    async def complete(
        self, principal: Principal, upload_id: str, part_ids: Sequence[str], *, md5: str | None = None
    ) -> Upload:
        """Put the parts together in this order and store the file; a completed upload is returned as it is.

        The work goes on when the caller is cancelled, and a call that asks for the same meanwhile waits for the same.
        Raises NotFound, UploadConflict (the upload has ended, or the parts are not what was announced), InvalidOption
        (an unknown part), StorageFull and what `Files.add` raises: the upload is pending then and keeps its parts. Of
        this and a cancel at the same time the first to end stands; when that is the cancel, UploadConflict is raised,
        and a video that was stored by then is a file like any other.
        """
        asked = (principal.owner, upload_id, tuple(part_ids), md5)
        completing = self._completing.get(asked)
        if completing is None:
            completing = self._completing[asked] = begun(self._complete(principal, upload_id, part_ids, md5))
            completing.add_done_callback(lambda _: self._completing.pop(asked))
        return await shared(completing)

    async def _complete(self, principal: Principal, upload_id: str, part_ids: Sequence[str], md5: str | None) -> Upload:
        upload = await self.get(principal, upload_id)
        if upload.state == "completed":
            return upload
        upload = _require_pending(upload)
        sizes = {part.id: part.size_bytes for part in upload.parts}
        for part_id in part_ids:
            if part_id not in sizes:
                raise InvalidOption(f"part_ids must name parts of this upload, got {part_id!r}", param="part_ids")
        total = sum(sizes[part_id] for part_id in part_ids)
        announced = upload.announced
        if total != announced.size_bytes:
            raise UploadConflict(f"the parts must have {announced.size_bytes} bytes in all, as announced, got {total}")

        async def joined() -> AsyncIterator[bytes]:
            for part_id in filter(sizes.__getitem__, part_ids):
                path = f"{_below(principal, upload_id)}parts/{part_id}"
                async for chunk in objects.stream(self._store, path, 0, sizes[part_id]):
                    yield chunk

        content = joined() if md5 is None else _checked(joined(), md5)
        try:
            file = await self._files.add(principal, announced.naming, content, total)
        except StorageFailed:
            # Its parts cannot be read when it ended meanwhile, which is then what there is to say.
            await self.require_pending(principal, upload_id)
            raise
        await self._end(principal, upload_id, file.id)
        upload = await self.get(principal, upload_id)
        if upload.state != "completed":
            raise _not_pending(upload)
        return upload

    async def cancel(self, principal: Principal, upload_id: str) -> Upload:
        """End the upload and remove its parts; a cancelled one stays as it is. Raises NotFound, UploadConflict."""
        upload = await self.get(principal, upload_id)
        if upload.state != "cancelled":
            _require_pending(upload)
            await to_the_end(self._end(principal, upload_id, None))
            upload = await self.get(principal, upload_id)
            if upload.state != "cancelled":
                raise _not_pending(upload)
        return upload

    async def require_pending(self, principal: Principal, upload_id: str) -> Upload:
        """Return the owner's upload that still takes parts, without them. Raises NotFound, UploadConflict."""
        return _require_pending(await self._without_parts(principal, upload_id))

    async def remove_if_over(
        self, principal: Principal, upload_id: str, now_s: float
    ) -> State | Literal["removed"] | None:
        """Remove every trace of an upload that expired before `now_s`, and the parts of one that has ended.

        What it was stays known until it expires, for clients that ask again.
        Returns its state, None when there is none.
        """
        if not is_id(upload_id, "upload"):
            return None
        try:
            upload = await self.get(principal, upload_id)
        except NotFound:
            # Removed, here or by another sweep; a part that came in while it was has nobody else to remove it.
            await self._remove_parts(principal, upload_id)
            return None
        over = upload.announced.expires_at <= now_s
        if over or upload.state != "pending":
            await self._remove_parts(principal, upload_id)
        if over:
            # What says that it was is removed last, so that a sweep that is cut off is taken up again.
            await objects.delete(self._store, f"{_below(principal, upload_id)}end.json")
            await objects.delete(self._store, f"{_below(principal, upload_id)}upload.json")
        return "removed" if over else upload.state

    async def _end(self, principal: Principal, upload_id: str, file_id: str | None) -> None:
        end = json.dumps({"file_id": file_id}).encode()
        await objects.create(self._store, f"{_below(principal, upload_id)}end.json", end)
        await self._remove_parts(principal, upload_id)

    async def _remove_parts(self, principal: Principal, upload_id: str) -> None:
        for path in await objects.sizes_below(self._store, f"{_below(principal, upload_id)}parts"):
            await objects.delete(self._store, path)


async def _checked(content: AsyncIterator[bytes], md5: str) -> AsyncIterator[bytes]:
    """Yield the content; raise UploadConflict at its end unless it has this MD5 sum, in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    async for chunk in content:
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != md5.lower():
        raise UploadConflict(f"the parts must have the MD5 sum {md5}, got {digest.hexdigest()}")


def _require_pending(upload: Upload) -> Upload:
    if upload.state != "pending":
        raise _not_pending(upload)
    return upload


def _not_pending(upload: Upload) -> UploadConflict:
    return UploadConflict(f"the upload must be pending, got one that is {upload.state}")


def _missing(upload_id: str) -> NotFound:
    return NotFound(f"expected one of your uploads, got {upload_id!r}", param="upload_id")


def _below(principal: Principal, upload_id: str) -> str:
    return f"owners/{principal.owner}/uploads/{upload_id}/"
