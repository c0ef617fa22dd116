"""A retry opens one round, whatever is cut off and however often it is asked for."""

import asyncio
import time

import pytest

from deployments.errors import AnalysisConflict, StorageFailed
from pipelines import store as objects
from tests.app.analysis_house import ANN, CLIPS, House, Play, broken_store, claimed, once, until_queue_is_empty

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("decoded_in_no_time")]


async def partial(house: House) -> str:
    """Return an analysis with one failed clip that will not fail again; no runner is at work."""
    house.model.bad = {10.0}
    one = (await house.submit()).request.id
    runner = house.start()
    await house.done(one)
    await until_queue_is_empty(house)
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
    house.model.bad = set()
    return one


async def ends_completed(house: House, one: str) -> None:
    """Wait for the end of round 1 and see that it was told once, and is the only one."""
    view = await house.until(one, lambda view: view.progress.done and view.progress.round == 1)
    assert (view.progress.state, view.progress.clips_done) == ("completed", CLIPS)
    states = [event.data["state"] for event in await house.events(one) if event.type == "progress"]
    assert states == ["running", "queued", "running"]
    assert len(await house.ledger(one).rounds()) == 1
    await until_queue_is_empty(house)


@pytest.mark.parametrize("part", ["rounds/", "queue/", "events/"])
@pytest.mark.parametrize("written", [False, True], ids=["not done", "answer lost"])
def test_a_retry_that_was_cut_off_is_finished_by_the_next_one(play: Play, part: str, written: bool) -> None:
    async def scenario(house: House) -> None:
        one = await partial(house)
        with broken_store(once("create", part), written=written), pytest.raises(StorageFailed):
            await house.service.retry(ANN, one)
        view = await house.gateway().retry(ANN, one)
        assert (view.progress.state, view.progress.round) == ("queued", 1)
        house.start()
        await ends_completed(house, one)

    play(scenario)


def test_a_retry_that_has_its_place_is_told_by_the_runner(play: Play) -> None:
    async def scenario(house: House) -> None:
        one = await partial(house)
        began_s = time.time()
        with broken_store(once("create", "events/")), pytest.raises(StorageFailed):
            await house.service.retry(ANN, one)
        house.start()
        await ends_completed(house, one)
        [told] = [event for event in await house.events(one) if event.data.get("state") == "queued"]
        assert began_s <= told.at_s <= time.time()
        assert (told.data["clips_done"], told.data["clips_failed"], told.data["clips_total"]) == (CLIPS - 1, 0, CLIPS)

    play(scenario)


def test_many_who_retry_at_once_open_one_round(play: Play) -> None:
    async def scenario(house: House) -> None:
        one = await partial(house)
        gateways = [house.service, house.service, house.gateway(), house.gateway()]
        views = await asyncio.gather(*(gateway.retry(ANN, one) for gateway in gateways))
        assert {(view.progress.state, view.progress.round) for view in views} == {("queued", 1)}
        house.start()
        await ends_completed(house, one)

    play(scenario)


def test_a_round_that_another_opened_meanwhile_is_not_opened_twice(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(house: House) -> None:
        one = await partial(house)
        find, looking = objects.find, asyncio.Event()

        async def late(store: object, path: str) -> bytes | None:
            """Let the others go on while the result is read."""
            if "/result." in path and not looking.is_set():
                looking.set()
                await house.gateway().retry(ANN, one)
                await house.service.get(ANN, one)
            return await find(store, path)  # type: ignore[arg-type]

        monkeypatch.setattr(objects, "find", late)
        assert (await house.service.retry(ANN, one)).progress.round == 1
        house.start()
        await ends_completed(house, one)

    play(scenario)


def test_a_second_click_finds_the_analysis_queued_and_puts_it_back_into_the_queue(play: Play) -> None:
    async def scenario(house: House) -> None:
        one = await partial(house)
        await house.service.retry(ANN, one)
        await objects.delete(house.store, f"queue/{one}.001")
        assert (await house.service.retry(ANN, one)).progress.state == "queued"
        house.model.held = True
        house.start()
        await house.until(one, lambda view: view.progress.state == "running")
        with pytest.raises(AnalysisConflict, match="that is done, got one that is running"):
            await house.service.retry(ANN, one)
        house.model.permits.release()
        await ends_completed(house, one)
        assert await claimed(house.ledger(one)) == 2

    play(scenario)
