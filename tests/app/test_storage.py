"""Files and uploads against time, races and cuts: nothing is stored twice, half, or for longer than it may be.

On a local directory and on a server that speaks S3.
"""

import asyncio
import datetime
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from deployments.chat.contracts import Usage
from deployments.chat.settings import ChatSettings
from deployments.errors import NotFound, SourceNotFound, StorageFull, TooLarge, UnreadableVideo, UploadConflict
from pipelines.ids import made_at_s
from pipelines.store import create, get, local_file, open_store, put, sizes_below
from serve_app import files as files_module
from serve_app.analyses.reports import Reporter, Reports
from serve_app.analyses.tally import Tally
from serve_app.chat.budget import Budget, Spent
from serve_app.janitor import Swept, sweep
from serve_app.principal import Principal, Role
from serve_app.stored_file import Naming
from tests.app.file_house import ANN, BOB, NAMING, House, pieces

Scenario = Callable[[House], Coroutine[Any, Any, None]]
Play = Callable[..., None]


@pytest.fixture(params=["local", "s3"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Run a scenario in an empty house; the keyword arguments are the house's."""
    target = str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_url")

    def run(scenario: Scenario, **options: Any) -> None:
        asyncio.run(scenario(House(open_store(target), **options)))

    return run


def test_an_object_is_created_by_one_of_64_racers(play: Play) -> None:
    async def scenario(house: House) -> None:
        won = await asyncio.gather(*(create(house.store, "owners/x", b"%d" % n) for n in range(64)))
        assert sum(won) == 1
        assert await get(house.store, "owners/x") == b"%d" % won.index(True)

    play(scenario)


def test_many_uploads_of_the_same_bytes_at_once_make_one_file(play: Play) -> None:
    async def scenario(house: House) -> None:
        added = await asyncio.gather(*(house.add(b"video") for _ in range(16)))
        assert len({file.id for file in added}) == 1
        assert await house.kinds() == ["files", "sha256", "sources"]
        assert [chunk async for chunk in house.files.content(added[0], 1, 3)] == [b"id"]

    play(scenario)


def test_a_file_that_died_half_way_is_finished_by_the_next_upload_of_its_bytes(play: Play) -> None:
    async def scenario(house: House) -> None:
        sha256 = hashlib.sha256(b"video").hexdigest()
        planned = "file_" + "0" * 24
        await put(house.store, f"owners/ann/sha256/{sha256}", planned.encode())
        assert (await house.add(b"video")).id == planned

    play(scenario)


def test_what_is_refused_or_cut_off_leaves_nothing(play: Play) -> None:
    async def cut_off() -> AsyncIterator[bytes]:
        yield b"video"
        raise ConnectionResetError

    async def hanging() -> AsyncIterator[bytes]:
        yield b"video"
        await asyncio.sleep(60)

    async def scenario(house: House) -> None:
        with pytest.raises(UnreadableVideo):
            await house.add(b"text")
        with pytest.raises(TooLarge, match="at most 1000 bytes"):
            await house.add(bytes(1001))
        with pytest.raises(Exception, match="cannot write"):
            await house.files.add(ANN, NAMING, cut_off())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await house.files.add(ANN, NAMING, hanging())
        assert await house.kinds() == []
        upload = await house.uploads.begin(ANN, NAMING, 50)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await house.uploads.add_part(ANN, upload.announced.id, hanging())
        assert (await house.uploads.get(ANN, upload.announced.id)).parts == []

    play(scenario)


def test_a_local_store_keeps_nothing_of_what_it_had_staged(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(open_store(str(tmp_path)))
        with pytest.raises(TooLarge):
            await house.add(bytes(1001))

    asyncio.run(scenario())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_files_are_deleted_when_their_time_is_over(play: Play) -> None:
    async def scenario(house: House) -> None:
        short = await house.add(b"video 1", naming=Naming("a", keep_s=60))
        long = await house.add(b"video 2", principal=BOB, naming=Naming("b", keep_s=999_999))
        assert short.expires_at == short.created_at + 60
        assert long.expires_at == long.created_at + 1000, "the server's own limit holds, too"
        early = await sweep(house.store, house.files, house.uploads, now_s=short.created_at + 59)
        assert early == Swept()
        late = await sweep(house.store, house.files, house.uploads, now_s=short.created_at + 60)
        assert late == Swept(files=1)
        with pytest.raises(NotFound):
            await house.files.get(ANN, short.id)
        assert await house.files.get(BOB, long.id) == long

    play(scenario, keep_s=1000)


def test_abandoned_uploads_are_removed_when_they_expire(play: Play) -> None:
    async def scenario(house: House) -> None:
        abandoned = (await house.uploads.begin(ANN, NAMING, 50)).announced
        await house.uploads.add_part(ANN, abandoned.id, pieces(b"video"))
        completed = (await house.uploads.begin(BOB, NAMING, 5)).announced
        part = await house.uploads.add_part(BOB, completed.id, pieces(b"video"))
        await house.uploads.complete(BOB, completed.id, [part.id])
        # a part that arrived while the upload was completed
        await put(house.store, f"owners/bob/uploads/{completed.id}/parts/part_late", b"late")
        before = await sweep(house.store, house.files, house.uploads, now_s=abandoned.expires_at - 1)
        assert before == Swept()
        assert before.pending_uploads == 1, "one has ended"
        assert len((await house.uploads.get(ANN, abandoned.id)).parts) == 1
        assert await sizes_below(house.store, f"owners/bob/uploads/{completed.id}/parts") == {}
        assert (await house.uploads.complete(BOB, completed.id, [part.id])).state == "completed"
        after = await sweep(house.store, house.files, house.uploads, now_s=abandoned.expires_at + 1)
        assert after == Swept(uploads=2)
        assert after.pending_uploads == 0
        assert await house.kinds() == ["files", "sha256", "sources"], "the video stays"

    play(scenario)


def test_bytes_of_a_writer_that_died_are_removed_a_day_later(play: Play) -> None:
    async def scenario(house: House) -> None:
        file = await house.add(b"video")
        stale = "source_" + f"{1_700_000_000_000:012x}" + "0" * 12
        await put(house.store, f"owners/ann/sources/{stale}", b"half a vid")
        day_s = 24 * 3600
        assert await sweep(house.store, house.files, house.uploads, now_s=made_at_s(stale) + day_s) == Swept()
        assert await sweep(house.store, house.files, house.uploads) == Swept(sources=1)
        assert [chunk async for chunk in house.files.content(file, 0, 5)] == [b"video"]

    play(scenario)


def test_what_chats_cost_is_known_for_two_months(play: Play) -> None:
    async def scenario(house: House) -> None:
        budget, now = Budget(house.store, ChatSettings()), datetime.datetime.now(datetime.UTC)
        await budget.record(ANN, "chat_1", Usage(10, 5, 0.25))
        await budget.record(ANN, "chat_2", Usage(1, 1, None))
        await budget.record(ANN, "chat_3", Usage(0, 0, 0.0))
        day_s = 24 * 3600.0
        assert await sweep(house.store, house.files, house.uploads, now_s=time.time() + 61 * day_s) == Swept()
        assert await budget.spent(ANN, now) == Spent(17, 0.25)
        late = await sweep(house.store, house.files, house.uploads, now_s=time.time() + 64 * day_s)
        assert late == Swept(spent_days=1)
        assert await budget.spent(ANN, now) == Spent(0, 0.0)

    play(scenario)


def test_the_report_of_a_runner_that_ended_is_removed_when_it_is_old(play: Play) -> None:
    async def scenario(house: House) -> None:
        await Reporter(house.store, Tally("dead"), every_s=0.0).report([])
        hour_s = 3600.0
        assert await sweep(house.store, house.files, house.uploads, now_s=time.time() + hour_s) == Swept()
        [report] = await Reports(house.store).read()
        assert report.runner == "dead"
        assert await sweep(house.store, house.files, house.uploads, now_s=time.time() + 3 * hour_s) == Swept(reports=1)
        assert await Reports(house.store).read() == []

    play(scenario)


def test_a_source_that_was_deleted_meanwhile_is_told_as_such(s3_url: str) -> None:
    async def run() -> None:
        house = House(open_store(s3_url))
        file = await house.add(b"video")
        async with local_file(house.store, file.source) as path:
            assert path.read_bytes() == b"video"
        await house.files.delete(ANN, file.id)
        with pytest.raises(SourceNotFound):
            async with local_file(house.store, file.source):
                pass

    asyncio.run(run())


def test_the_same_bytes_are_kept_for_the_longest_time_that_anybody_asked_for(play: Play) -> None:
    async def scenario(house: House) -> None:
        first = await house.add(b"video", naming=Naming("a", keep_s=600))
        shorter = await house.add(b"video", naming=Naming("b", keep_s=60))
        assert (shorter.id, shorter.expires_at) == (first.id, first.expires_at), "a shorter one takes nothing"
        longer = await house.add(b"video", naming=Naming("c", keep_s=6000))
        assert longer.id == first.id
        assert longer.expires_at is not None
        assert 6000 <= longer.expires_at - first.created_at <= 6060
        assert (await house.files.page(ANN, after=None, limit=9, order="desc")).files == [longer]
        assert await sweep(house.store, house.files, house.uploads, now_s=first.created_at + 5999.0) == Swept()
        forever = await house.add(b"video")
        assert (forever.id, forever.expires_at) == (first.id, None)
        assert (await house.add(b"video", naming=Naming("d", keep_s=60))).expires_at is None
        assert await house.files.get(ANN, first.id) == forever
        await house.files.delete(ANN, first.id)
        assert await house.kinds() == []

    play(scenario)


def test_a_file_is_deleted_without_the_marker_of_a_later_one(play: Play) -> None:
    async def scenario(house: House) -> None:
        file = await house.add(b"video")
        marker = f"owners/ann/sha256/{file.sha256}"
        await put(house.store, marker, b"file_" + b"0" * 24)
        await house.files.delete(ANN, file.id)
        assert await house.kinds() == ["sha256"]

    play(scenario)


def test_the_janitor_goes_on_past_what_it_cannot_read(play: Play) -> None:
    async def scenario(house: House) -> None:
        expired = await house.add(b"video", principal=BOB, naming=Naming("a", keep_s=60))
        for path in (
            "owners/a b/files/x.json",
            "owners/ann/files/notes.txt",
            f"owners/ann/files/file_{'0' * 24}.json",
            "owners/ann/sources/no id at all",
            "owners/bob/sources/no_id",
            "owners/bob/uploads/odd/thing",
            f"owners/bob/uploads/upload_{'0' * 24}/upload.json",
        ):
            await put(house.store, path, b"not what it should be")
        assert await sweep(house.store, house.files, house.uploads, now_s=expired.created_at + 61.0) == Swept(files=1)
        assert (await house.files.page(BOB, after=None, limit=9, order="asc")).files == []

    play(scenario)


def test_a_part_that_comes_while_its_upload_ends_is_nobody_s(play: Play) -> None:
    async def scenario(house: House) -> None:
        upload_id = (await house.uploads.begin(ANN, NAMING, 50)).announced.id

        async def cancelled_meanwhile() -> AsyncIterator[bytes]:
            yield b"vid"
            await house.uploads.cancel(ANN, upload_id)
            yield b"eo"

        with pytest.raises(UploadConflict, match="got one that is cancelled"):
            await house.uploads.add_part(ANN, upload_id, cancelled_meanwhile())
        assert await sizes_below(house.store, f"owners/ann/uploads/{upload_id}/parts") == {}
        # One whose writer died after its upload was swept.
        await put(house.store, f"owners/ann/uploads/upload_{'0' * 24}/parts/part_0", b"late")
        await sweep(house.store, house.files, house.uploads)
        assert await house.kinds() == ["uploads", "uploads"], "the upload and how it ended"

    play(scenario)


def test_of_a_cancel_and_a_complete_the_first_to_end_stands(play: Play) -> None:
    async def scenario(house: House) -> None:
        upload_id = (await house.uploads.begin(ANN, NAMING, 5)).announced.id
        part = await house.uploads.add_part(ANN, upload_id, pieces(b"video"))
        completing = asyncio.create_task(house.uploads.complete(ANN, upload_id, [part.id]))
        again = asyncio.create_task(house.uploads.complete(ANN, upload_id, [part.id]))
        while "sources" not in await house.kinds():  # noqa: ASYNC110
            await asyncio.sleep(0)
        ended = await asyncio.gather(house.uploads.cancel(ANN, upload_id), completing, again, return_exceptions=True)
        state = (await house.uploads.get(ANN, upload_id)).state
        conflicts = [isinstance(one, UploadConflict) for one in ended]
        assert conflicts == ([False, True, True] if state == "cancelled" else [True, False, False]), ended

    play(scenario)


def test_an_upload_is_joined_only_where_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(house: House) -> None:
        upload_id = (await house.uploads.begin(ANN, NAMING, 5)).announced.id
        part = await house.uploads.add_part(ANN, upload_id, pieces(b"video"))
        asked: list[int] = []

        def require_room(wanted_bytes: int) -> None:
            asked.append(wanted_bytes)
            raise StorageFull("none")

        with monkeypatch.context() as patched:
            patched.setattr(house.files, "require_room", require_room)
            with pytest.raises(StorageFull):
                await house.uploads.complete(ANN, upload_id, [part.id])
        assert asked == [5], "for all of it, before a byte is copied"
        assert (await house.uploads.get(ANN, upload_id)).parts == [part]
        assert (await house.uploads.complete(ANN, upload_id, [part.id])).state == "completed"

    asyncio.run(scenario(House(open_store(str(tmp_path)))))


def test_a_nearly_full_disk_takes_nothing_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(house: House) -> None:
        house.files.require_room(1)
        monkeypatch.setattr(files_module, "_MIN_FREE_BYTES", 1 << 60)
        with pytest.raises(StorageFull, match="expected room for 1 bytes"):
            house.files.require_room(1)
        with pytest.raises(StorageFull):
            await house.add(b"video")

    asyncio.run(scenario(House(open_store(str(tmp_path)))))


@pytest.mark.parametrize("owner", ["", "a/b", "..", "ü", "a b"])
def test_an_owner_is_fit_for_a_path(owner: str) -> None:
    with pytest.raises(ValueError, match="letters, digits and hyphens"):
        Principal(owner, Role.VIEWER)
