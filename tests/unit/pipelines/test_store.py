"""One store, whatever lies behind it: a local directory here, S3's protocol in tests/serve."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from deployments.errors import InvalidInput, SourceNotFound, StorageFailed, UnreadableVideo
from pipelines import store as objects
from pipelines.store import local_file, open_store


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="output must be a directory or a URL, got a file"):
        open_store(str(tmp_path / "file"))
    with pytest.raises(InvalidInput, match="output must be a writable directory"):
        open_store(str(tmp_path / "file" / "below"))
    with pytest.raises(InvalidInput, match="object store's URL, got bogus://x"):
        open_store("bogus://x")


def test_an_object_is_created_by_one_of_many(tmp_path: Path) -> None:
    async def run() -> list[bool]:
        store = open_store(str(tmp_path))
        return await asyncio.gather(*(objects.create(store, "a/b", b"%d" % n) for n in range(64)))

    assert sum(asyncio.run(run())) == 1


def test_what_is_not_there_is_told_apart_from_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder" / "below").mkdir(parents=True)

    async def run() -> None:
        store = open_store(str(tmp_path))
        assert await objects.find(store, "nothing") is None
        assert not await objects.exists(store, "nothing")
        await objects.delete(store, "nothing")
        with pytest.raises(StorageFailed, match=r"^cannot read nothing: [^\n]*$"):
            await objects.get(store, "nothing")
        with pytest.raises(StorageFailed):
            await objects.put(store, "folder", b"over a folder")

    asyncio.run(run())


async def pieces(*parts: bytes | Exception) -> AsyncIterator[bytes]:
    for part in parts:
        if isinstance(part, Exception):
            raise part
        yield part


def test_a_stream_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    long = bytes(range(256)) * (48 << 10)

    async def run() -> None:
        store = open_store(str(tmp_path))
        await objects.put(store, "d/whole", pieces(long, b"", b"end"))
        assert await objects.get(store, "d/whole") == long + b"end"
        with pytest.raises(UnreadableVideo, match="cut"):
            await objects.put(store, "d/cut", pieces(long, UnreadableVideo("cut")))
        assert await objects.sizes_below(store, "d") == {"d/whole": len(long) + 3}

    asyncio.run(run())
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["whole"], "nothing half-written is left"


def test_a_range_of_an_object_is_streamed(tmp_path: Path) -> None:
    async def run() -> bytes:
        store = open_store(str(tmp_path))
        await objects.put(store, "o", bytes(range(200)))
        return b"".join([chunk async for chunk in objects.stream(store, "o", 10, 13)])

    assert asyncio.run(run()) == bytes((10, 11, 12))


def test_an_object_is_a_file_to_read(tmp_path: Path) -> None:
    async def run() -> None:
        local, remote = open_store(str(tmp_path)), MemoryStore()
        for store in (local, remote):
            await objects.put(store, "v/source", b"pixels")
            async with local_file(store, "v/source") as path:
                assert path.read_bytes() == b"pixels"
            assert path.exists() == (store is local), "a copy goes, the object stays"

    asyncio.run(run())


def test_an_object_that_was_deleted_is_no_failure_of_the_store() -> None:
    async def run() -> None:
        with pytest.raises(SourceNotFound, match="got none any more"):
            async with local_file(MemoryStore(), "v/source"):
                pass

    asyncio.run(run())


def test_folders_are_named_without_what_lies_in_them(tmp_path: Path) -> None:
    async def run() -> None:
        store = open_store(str(tmp_path))
        for path in ("a/one/x", "a/one/deep/y", "a/two/x", "a/file", "b/three/x"):
            await objects.put(store, path, path.encode())
        assert sorted(await objects.folders_below(store, "a")) == ["one", "two"]
        assert await objects.folders_below(store, "nothing") == []
        many = ["a/two/x", "a/one/x"] * 50
        assert await objects.get_all(store, many) == [path.encode() for path in many]

    asyncio.run(run())
