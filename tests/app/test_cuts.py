"""Whatever changes files and uploads, cut at every operation on the store: the same call again completes it.

Cut means that the client goes, which Serve's proxy lets it do at any moment, or that the process dies.
"""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore

from deployments.errors import NotFound, StorageFailed, UploadConflict
from pipelines import store as objects
from serve_app import to_the_end
from serve_app.janitor import sweep
from serve_app.stored_file import Naming
from tests.app.file_house import ANN, NAMING, House, pieces

pytestmark = pytest.mark.timeout(60)
Before = Callable[[str, int], Awaitable[None]]
DAY_S = 24 * 3600


class Watched:
    """obstore, with something done before its n-th operation."""

    def __init__(self, before: Before) -> None:
        self.before = before
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(obstore, name)
        if name == "list":
            return functools.partial(self._list, real)

        async def call(*args: Any, **options: Any) -> Any:
            await self._next(name)
            return await real(*args, **options)

        return call

    async def _list(self, real: Any, *args: Any) -> AsyncIterator[Any]:
        await self._next("list")
        async for page in real(*args):
            yield page

    async def _next(self, name: str) -> None:
        self.count += 1
        await self.before(name, self.count)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Before], Watched]:
    def watch(before: Before) -> Watched:
        watched = Watched(before)
        monkeypatch.setattr(objects, "obstore", watched)
        return watched

    return watch


async def nothing(name: str, number: int) -> None:
    pass


async def all_gone_on() -> None:
    while to_the_end._going_on:
        await asyncio.gather(*to_the_end._going_on, return_exceptions=True)


class Call:
    """A call that changes something: what is there before, the call, and what is true once it has been completed.

    `left`: what is there days later.
    """

    left: tuple[str, ...] = ("files", "sha256", "sources")

    async def prepare(self, house: House) -> None: ...

    async def make(self, house: House) -> None: ...

    async def check(self, house: House) -> None: ...


class AddFile(Call):
    async def make(self, house: House) -> None:
        self.file = await house.add(b"video")

    async def check(self, house: House) -> None:
        assert (await house.files.page(ANN, after=None, limit=9, order="asc")).files == [self.file]
        assert b"".join([chunk async for chunk in house.files.content(self.file, 0, 5)]) == b"video"


class AddFileAgainForLonger(AddFile):
    left = ("files", "keeps", "sha256", "sources")

    async def prepare(self, house: House) -> None:
        await house.add(b"video", naming=Naming("short", keep_s=60))

    async def make(self, house: House) -> None:
        self.file = await house.add(b"video", naming=Naming("long", keep_s=30 * DAY_S))

    async def check(self, house: House) -> None:
        [file] = (await house.files.page(ANN, after=None, limit=9, order="asc")).files
        assert file == self.file
        assert file.expires_at is not None
        assert file.expires_at >= file.created_at + 30 * DAY_S


class DeleteFile(Call):
    async def prepare(self, house: House) -> None:
        self.file = await house.add(b"video")

    async def make(self, house: House) -> None:
        try:
            await house.files.delete(ANN, self.file.id)
        except NotFound:
            return

    async def check(self, house: House) -> None:
        assert (await house.files.page(ANN, after=None, limit=9, order="asc")).files == []
        assert (await house.add(b"video")).id != self.file.id


class CompleteUpload(Call):
    async def prepare(self, house: House) -> None:
        self.upload_id = (await house.uploads.begin(ANN, NAMING, 5)).announced.id
        self.parts = [(await house.uploads.add_part(ANN, self.upload_id, pieces(part))).id for part in (b"vi", b"deo")]

    async def make(self, house: House) -> None:
        upload = await house.uploads.complete(ANN, self.upload_id, self.parts, md5="421B47FFD946CA083B65CD668C6B17E6")
        assert upload.state == "completed"
        assert upload.file is not None
        self.file = upload.file

    async def check(self, house: House) -> None:
        assert (await house.files.page(ANN, after=None, limit=9, order="asc")).files == [self.file]
        assert b"".join([chunk async for chunk in house.files.content(self.file, 0, 5)]) == b"video"
        assert await objects.sizes_below(house.store, f"owners/ann/uploads/{self.upload_id}/parts") == {}


class CancelUpload(CompleteUpload):
    left = ()

    async def make(self, house: House) -> None:
        assert (await house.uploads.cancel(ANN, self.upload_id)).state == "cancelled"

    async def check(self, house: House) -> None:
        assert await objects.sizes_below(house.store, f"owners/ann/uploads/{self.upload_id}/parts") == {}
        with pytest.raises(UploadConflict):
            await house.uploads.complete(ANN, self.upload_id, self.parts)


class AddPart(Call):
    async def prepare(self, house: House) -> None:
        self.upload_id = (await house.uploads.begin(ANN, NAMING, 5)).announced.id

    async def make(self, house: House) -> None:
        self.part = await house.uploads.add_part(ANN, self.upload_id, pieces(b"video"))

    async def check(self, house: House) -> None:
        upload = await house.uploads.complete(ANN, self.upload_id, [self.part.id])
        assert upload.state == "completed"
        assert await objects.sizes_below(house.store, f"owners/ann/uploads/{self.upload_id}/parts") == {}


CALLS = [AddFile, AddFileAgainForLonger, DeleteFile, CompleteUpload, CancelUpload, AddPart]


@pytest.mark.parametrize("kind", CALLS)
def test_a_client_that_goes_at_any_moment_leaves_what_the_same_call_completes(
    kind: type[Call], watch: Callable[[Before], Watched]
) -> None:
    async def cut_at(at: int) -> bool:
        house, call = House(MemoryStore()), kind()
        await call.prepare(house)

        async def cut(name: str, number: int) -> None:
            if number == at:
                asking.cancel()
                await asyncio.sleep(0)

        watched = watch(cut)
        asking = asyncio.create_task(call.make(house))
        await asyncio.gather(asking, return_exceptions=True)
        await all_gone_on()
        watched.before = nothing
        assert at > watched.count or asking.cancelled()
        await call.make(house)
        await call.check(house)
        await sweep(house.store, house.files, house.uploads, now_s=time.time() + 2 * DAY_S)
        assert tuple(await house.kinds()) == call.left
        return asking.cancelled()

    async def scenario() -> None:
        at = 1
        while await cut_at(at):
            at += 1
        assert at > 2, "else nothing was cut"

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", CALLS)
def test_a_process_that_dies_at_any_moment_leaves_what_the_same_call_completes(
    kind: type[Call], watch: Callable[[Before], Watched]
) -> None:
    async def die_at(at: int) -> bool:
        store, call = MemoryStore(), kind()
        house = House(store)
        await call.prepare(house)

        async def die(name: str, number: int) -> None:
            if number >= at:
                raise OSError("dead")

        watched = watch(die)
        [failed] = await asyncio.gather(call.make(house), return_exceptions=True)
        await all_gone_on()
        watched.before = nothing
        house = House(store)
        died = failed is not None
        assert not died or isinstance(failed, StorageFailed)
        await call.make(house)
        await sweep(store, house.files, house.uploads)
        await call.check(house)
        await sweep(store, house.files, house.uploads, now_s=time.time() + 2 * DAY_S)
        assert tuple(await house.kinds()) == call.left
        return died

    async def scenario() -> None:
        at = 1
        while await die_at(at):
            at += 1
        assert at > 2, "else nothing died"

    asyncio.run(scenario())


LATER = Naming("later", keep_s=30 * DAY_S)


def test_the_same_bytes_that_come_while_their_file_expires_are_kept(watch: Callable[[Before], Watched]) -> None:
    """The upload comes before each operation of the sweep in turn, and the other way round."""

    async def meet_at(at: int, *, sweep_first: bool) -> bool:
        house = House(MemoryStore())
        added = old = await house.add(b"video", naming=Naming("short", keep_s=60))
        over_s = old.created_at + 61.0

        async def sweeping() -> None:
            await sweep(house.store, house.files, house.uploads, now_s=over_s)

        async def adding() -> None:
            nonlocal added
            added = await house.add(b"video", naming=LATER)

        first, second = (sweeping, adding) if sweep_first else (adding, sweeping)

        async def meet(name: str, number: int) -> None:
            if number == at:
                watched.before = nothing
                await second()
                watched.before = met

        async def met(name: str, number: int) -> None:
            pass

        watched = watch(meet)
        await first()
        happened = watched.count >= at
        if not happened:
            await second()
        watched.before = nothing
        await sweep(house.store, house.files, house.uploads, now_s=over_s + 2 * DAY_S)
        file = await house.files.get(ANN, added.id)
        assert file.expires_at is not None
        assert file.expires_at >= old.created_at + 30 * DAY_S
        assert b"".join([chunk async for chunk in house.files.content(file, 0, 5)]) == b"video"
        left = [kind for kind in await house.kinds() if kind != "keeps"]
        assert left == ["files", "sha256", "sources"]
        return happened

    async def scenario() -> None:
        for sweep_first in (True, False):
            at = 1
            while await meet_at(at, sweep_first=sweep_first):
                at += 1
            assert at > 5

    asyncio.run(scenario())
