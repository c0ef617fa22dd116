"""Objects in a store, the same on a local directory, s3://, gs:// and az://; its errors become ours here, once.

Whatever raises StorageFailed raises StorageFull, which is one, where the disk has no room.
"""

import asyncio
import errno
import shutil
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, MemoryStore, ObjectStore, S3Store, from_url

from deployments.errors import InvalidInput, SourceNotFound, StorageFailed, StorageFull

CHUNK_BYTES = 1 << 20
"""Size of the pieces that long objects are read and written in."""
_PART_BYTES = 8 << 20
"""Size of the parts that a long object is sent to a store in; 10,000 of them are the most that S3 takes (80 GB)."""
_PARTS_AT_ONCE = 2
"""Parts of one object in memory: uploads stay flat, and the client is the slower side."""

_AT_ONCE = 64
_FULL = (errno.ENOSPC, errno.EDQUOT)

_KINDS: dict[type, str] = {
    LocalStore: "local",
    MemoryStore: "memory",
    S3Store: "s3",
    GCSStore: "gs",
    AzureStore: "az",
}


class Listed(NamedTuple):
    """An object in a listing: when it was written (seconds since 1970, the store's clock), and which content it has."""

    modified_s: float
    e_tag: str | None


def open_store(target: str) -> ObjectStore:
    """Return the store at a directory (made if absent) or URL. Raises InvalidInput with one line."""
    try:
        if "://" in target:
            return from_url(target)
        path = Path(target)
        if path.exists() and not path.is_dir():
            raise InvalidInput(f"output must be a directory or a URL, got a file: {target}")
        return LocalStore(path.resolve(), mkdir=True)
    except (BaseError, OSError, ValueError) as error:
        raise InvalidInput(f"output must be a writable directory or an object store's URL, got {target}") from error


def kind_of(store: ObjectStore) -> str:
    """Return what kind of store it is, without saying where."""
    return next((kind for cls, kind in _KINDS.items() if isinstance(store, cls)), "other")


def free_bytes(store: ObjectStore) -> int | None:
    """Return the room left on a local store's disk, None for a store that has no such end. Raises StorageFailed."""
    if not isinstance(store, LocalStore):
        return None
    with translated("measure", "the disk"):
        return shutil.disk_usage(str(store.prefix)).free


async def create(store: ObjectStore, path: str, data: bytes) -> bool:
    """Write a new object; return False, changing nothing, where there is one. Raises StorageFailed."""
    with translated("write", path):
        try:
            await obstore.put_async(store, path, data, mode="create")
        except AlreadyExistsError:
            return False
    return True


async def put(store: ObjectStore, path: str, data: bytes | AsyncIterable[bytes]) -> None:
    """Write an object, all of it or nothing, over any that is there.

    Of a stream, only a few parts are in memory at once; an AppError that it raises is raised. Raises StorageFailed.
    """
    with translated("write", path):
        if isinstance(data, bytes):
            await obstore.put_async(store, path, data)
        else:
            await obstore.put_async(store, path, data, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)


async def get(store: ObjectStore, path: str) -> bytes:
    """Return an object's content. Raises StorageFailed."""
    with translated("read", path):
        return bytes(await (await obstore.get_async(store, path)).bytes_async())


async def get_all(store: ObjectStore, paths: Sequence[str]) -> list[bytes]:
    """Return the contents of many objects in the order of their paths, some at a time. Raises StorageFailed."""
    found: list[bytes] = []
    for at in range(0, len(paths), _AT_ONCE):
        found += await asyncio.gather(*(get(store, path) for path in paths[at : at + _AT_ONCE]))
    return found


async def find(store: ObjectStore, path: str) -> bytes | None:
    """Return an object's content, None where there is no such object. Raises StorageFailed."""
    with translated("read", path):
        try:
            return bytes(await (await obstore.get_async(store, path)).bytes_async())
        except FileNotFoundError:
            return None


async def stream(store: ObjectStore, path: str, start: int, end: int) -> AsyncIterator[bytes]:
    """Yield the bytes [start, end) of an object, end > start, as fast as they are taken. Raises StorageFailed."""
    with translated("read", path):
        result = await obstore.get_async(store, path, options={"range": (start, end)})
        async for chunk in result.stream(CHUNK_BYTES):
            yield bytes(chunk)


async def exists(store: ObjectStore, path: str) -> bool:
    """Say whether there is an object of this path. Raises StorageFailed."""
    with translated("look for", path):
        try:
            await obstore.head_async(store, path)
        except FileNotFoundError:
            return False
    return True


async def delete(store: ObjectStore, path: str) -> None:
    """Remove an object; one that is not there is removed already. Raises StorageFailed."""
    with translated("delete", path):
        try:
            await obstore.delete_async(store, path)
        except FileNotFoundError:
            return


async def delete_all(store: ObjectStore, paths: Sequence[str]) -> None:
    """Remove many objects, some at a time; those that are not there are removed already. Raises StorageFailed."""
    for at in range(0, len(paths), _AT_ONCE):
        await asyncio.gather(*(delete(store, path) for path in paths[at : at + _AT_ONCE]))


async def sizes_below(store: ObjectStore, prefix: str) -> dict[str, int]:
    """Return path and size in bytes of all objects below the prefix, in no order. Raises StorageFailed."""
    with translated("list", prefix):
        return {meta["path"]: meta["size"] async for page in obstore.list(store, prefix) for meta in page}


async def listed_below(store: ObjectStore, prefix: str) -> dict[str, Listed]:
    """Return what a listing says of all objects below the prefix by path, in no order. Raises StorageFailed."""
    with translated("list", prefix):
        return {
            meta["path"]: Listed(meta["last_modified"].timestamp(), meta["e_tag"])
            async for page in obstore.list(store, prefix)
            for meta in page
        }


async def folders_below(store: ObjectStore, prefix: str) -> list[str]:
    """Return the names right below the prefix that have objects below them, however many those are, in no order.

    Raises StorageFailed.
    """
    with translated("list", prefix):
        listed = await obstore.list_with_delimiter_async(store, prefix)
    return [folder.rstrip("/").rsplit("/", 1)[-1] for folder in listed["common_prefixes"]]


@asynccontextmanager
async def local_file(store: ObjectStore, path: str) -> AsyncIterator[Path]:
    """Give an object as a file to read: its own on a local store, else a copy that is removed at the end.

    Raises SourceNotFound where a store that is not local has no such object, StorageFailed, and StorageFull where the
    copy has no room.
    """
    if isinstance(store, LocalStore):
        yield Path(str(store.prefix)) / path
        return
    with tempfile.NamedTemporaryFile(prefix="vidray-") as copy:
        with translated("read", path):
            try:
                found = await obstore.get_async(store, path)
            except FileNotFoundError as error:
                raise SourceNotFound("expected the stored video, got none any more") from error
            async for chunk in found.stream(CHUNK_BYTES):
                copy.write(chunk)
            copy.flush()
        yield Path(copy.name)


@contextmanager
def translated(verb: str, path: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        # obstore's messages hold its debug source over many lines; the first says what happened.
        reason = str(error).strip().split("\n", 1)[0]
        kind = StorageFull if is_full(error) else StorageFailed
        raise kind(f"cannot {verb} {path}: {reason}") from error


def is_full(error: BaseException) -> bool:
    """Say whether the error is that of a disk or a quota without room; obstore tells the number in its text alone."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return isinstance(error, BaseError) and any(f"(os error {number})" in str(error) for number in _FULL)
