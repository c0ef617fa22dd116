"""What is accepted stands and runs, and what is cut off while it is accepted is finished or is nothing."""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable

import pytest
from obstore.store import ObjectStore

from deployments.errors import AnalysisConflict, NotFound, Overloaded, StorageFailed
from pipelines import store as objects
from serve_app.analyses import runner as runner_module
from serve_app.analyses import submission
from serve_app.analyses.ledger import remove_deleted
from serve_app.analyses.request import AnalysisOptions
from serve_app.analyses.submission import Asked
from serve_app.stored_file import StoredFile
from tests.app.analysis_house import ANN, House, Play, broken_store, once, queued, until_queue_is_empty

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("decoded_in_no_time")]


def keyed(file: StoredFile) -> Asked:
    return Asked(file.id, AnalysisOptions(model="sim"), {}, key="mine")


async def first_listed(house: House) -> str:
    """Return the id of the first analysis, as soon as there is one."""
    async with asyncio.timeout(5):
        while not (views := (await house.service.page(ANN, after=None, limit=10)).views):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return views[0].request.id


def test_a_full_queue_accepts_nothing_more_until_something_is_done(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "_COUNT_EVERY_S", 0.05)

    async def scenario(house: House) -> None:
        service = house.gateway(max_queued=2)
        file = await house.file()
        keyed_one = (await service.submit(ANN, keyed(file))).request.id
        other = await service.submit(ANN, Asked(file.id, AnalysisOptions(model="sim"), {}))
        with pytest.raises(Overloaded, match="expected fewer than 2 analyses that are not done, got 2: ask later"):
            await service.submit(ANN, Asked(file.id, AnalysisOptions(model="sim"), {}))
        assert (await service.submit(ANN, keyed(file))).request.id == keyed_one, "it has its place already"
        house.start()
        await house.done(other.request.id)
        await house.done(keyed_one)
        await asyncio.sleep(0.1)
        await service.submit(ANN, Asked(file.id, AnalysisOptions(model="sim"), {}))

    play(scenario)


@pytest.mark.parametrize("part", ["keys/", "queue/", "request.json"])
@pytest.mark.parametrize("written", [False, True], ids=["not done", "answer lost"])
def test_a_submission_that_was_cut_off_is_finished_by_its_key(play: Play, part: str, written: bool) -> None:
    async def scenario(house: House) -> None:
        asked = keyed(await house.file())
        with broken_store(once("create", part), written=written), pytest.raises(StorageFailed):
            await house.service.submit(ANN, asked)
        house.start()
        one = (await house.service.submit(ANN, asked)).request.id
        assert (await house.done(one)).progress.state == "completed"
        page = await house.service.page(ANN, after=None, limit=10)
        assert [view.request.id for view in page.views] == [one]

    play(scenario)


def test_whatever_of_a_submission_stands_will_run(play: Play) -> None:
    async def scenario(house: House) -> None:
        for part in ("queue/", "request.json"):
            with broken_store(once("create", part), written=True), pytest.raises(StorageFailed):
                await house.submit(prompt=part)
        house.start()
        page = await house.service.page(ANN, after=None, limit=10)
        assert len(page.views) == 1, "the other was not accepted, and nothing is listed of it"
        assert (await house.done(page.views[0].request.id)).progress.state == "completed"

    play(scenario)


@pytest.mark.parametrize("part", ["keys/", "queue/", "request.json"])
def test_a_client_that_goes_away_leaves_no_half_submission(
    play: Play, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    async def scenario(house: House) -> None:
        asked = keyed(await house.file())
        create, at_it, go_on = objects.create, asyncio.Event(), asyncio.Event()

        async def slow(store: object, path: str, data: bytes) -> bool:
            if part in path:
                at_it.set()
                await go_on.wait()
            return await create(store, path, data)  # type: ignore[arg-type]

        monkeypatch.setattr(objects, "create", slow)
        submitting = asyncio.create_task(house.service.submit(ANN, asked))
        await at_it.wait()
        submitting.cancel()
        await asyncio.gather(submitting, return_exceptions=True)
        assert submitting.cancelled()
        go_on.set()
        house.start()
        assert (await house.done(await first_listed(house))).progress.state == "completed"

    play(scenario)


def test_a_key_answers_with_its_analysis_after_the_file_is_gone(play: Play) -> None:
    async def scenario(house: House) -> None:
        file = await house.file()
        one = (await house.service.submit(ANN, keyed(file))).request.id
        house.start()
        await house.done(one)
        await house.files.delete(ANN, file.id)
        again = await house.service.submit(ANN, keyed(file))
        assert (again.request.id, again.progress.state) == (one, "completed")
        assert await queued(house) == []
        assert house.service.submitted == 1
        with pytest.raises(AnalysisConflict, match="Idempotency-Key"):
            await house.service.submit(ANN, dataclasses.replace(keyed(file), metadata={"other": 1}))
        with pytest.raises(NotFound):
            await house.service.submit(ANN, dataclasses.replace(keyed(file), key="new"))

    play(scenario)


def test_a_key_of_a_deleted_analysis_asks_for_another(play: Play) -> None:
    async def scenario(house: House) -> None:
        file = await house.file()
        house.start()
        one = (await house.service.submit(ANN, keyed(file))).request.id
        await house.done(one)
        with broken_store(once("delete", "events/")), pytest.raises(StorageFailed):
            await house.service.delete(ANN, one)
        again = (await house.service.submit(ANN, keyed(file))).request.id
        assert again != one
        done = await house.done(again)
        assert done.result is not None
        assert (done.progress.state, done.result["coverage"]["reused"]) == ("completed", len(done.result["clips"]))

    play(scenario)


def test_a_key_that_is_read_just_before_its_analysis_is_deleted_asks_for_another(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(house: House) -> None:
        asked = keyed(await house.file())
        house.start()
        one = (await house.service.submit(ANN, asked)).request.id
        await house.done(one)
        await until_queue_is_empty(house)
        find = objects.find

        async def found_and_deleted(store: ObjectStore, path: str) -> bytes | None:
            data = await find(store, path)
            if "/keys/" in path:
                monkeypatch.setattr(objects, "find", find)
                await house.service.delete(ANN, one)
            return data

        monkeypatch.setattr(objects, "find", found_and_deleted)
        again = (await house.gateway().submit(ANN, asked)).request.id
        assert again != one
        await house.done(again)
        await remove_deleted(house.store, "ann", time.time() + 7200.0)
        assert (await house.gateway().submit(ANN, asked)).request.id == again, "nothing of it is erased"

    play(scenario)


async def cut_long_ago(house: House, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Leave a place in the queue, for an analysis that was not recorded, which a runner takes for an old one."""
    asked = keyed(await house.file())
    with broken_store(once("create", "request.json")), pytest.raises(StorageFailed):
        await house.service.submit(ANN, asked)
    monkeypatch.setattr(runner_module, "LEFT_OVER_S", -3600.0)
    return asked


def test_a_submission_is_run_although_its_old_place_is_cleared_before_it_is_recorded(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(house: House) -> None:
        asked = await cut_long_ago(house, monkeypatch)
        create = objects.create

        async def slow(store: ObjectStore, path: str, data: bytes) -> bool:
            if path.endswith("request.json"):
                house.start()
                await until_queue_is_empty(house)
            return await create(store, path, data)

        monkeypatch.setattr(objects, "create", slow)
        one = (await house.service.submit(ANN, asked)).request.id
        async with asyncio.timeout(5):
            assert (await house.done(one)).progress.state == "completed"

    play(scenario)


def test_a_submission_is_run_although_its_old_place_is_cleared_after_it_is_recorded(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(house: House) -> None:
        asked = await cut_long_ago(house, monkeypatch)
        delete_all: Callable[[ObjectStore, list[str]], Awaitable[None]] = objects.delete_all

        async def late(store: ObjectStore, paths: list[str]) -> None:
            if paths[0].startswith("queue/"):
                monkeypatch.setattr(objects, "delete_all", delete_all)
                await house.service.submit(ANN, asked)
            await delete_all(store, paths)

        monkeypatch.setattr(objects, "delete_all", late)
        house.start()
        async with asyncio.timeout(5):
            assert (await house.done(await first_listed(house))).progress.state == "completed"

    play(scenario)
