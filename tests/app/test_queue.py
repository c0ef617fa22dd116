"""What waits in the queue is run or ended, whatever else lies there."""

import asyncio
import dataclasses
import time

import pytest

from deployments.errors import StorageFailed
from pipelines import store as objects
from serve_app.analyses import runner as runner_module
from serve_app.analyses.backoff import Backoff
from serve_app.analyses.queue import Waiting, waiting
from tests.app.analysis_house import (
    ANN,
    CLIPS,
    MODEL,
    QUICK,
    House,
    Play,
    broken_store,
    claimed,
    once,
    queued,
    until,
    until_queue_is_empty,
)

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("decoded_in_no_time")]


def test_a_place_that_an_older_round_left_is_cleared_without_an_attempt(play: Play) -> None:
    async def scenario(house: House) -> None:
        house.model.bad = {10.0}
        one = (await house.submit()).request.id
        runner = house.start()
        with broken_store(lambda verb, path: verb == "delete" and path.startswith("queue/")):
            await house.done(one)
            await asyncio.sleep(0.2)
            runner.cancel()
            await asyncio.gather(runner, return_exceptions=True)
        attempts = await claimed(house.ledger(one))
        house.model.bad = set()
        await house.service.retry(ANN, one)
        assert await queued(house) == [f"queue/{one}.000", f"queue/{one}.001"]
        house.start()
        await house.until(one, lambda view: view.progress.done and view.progress.round == 1)
        await until_queue_is_empty(house)
        await asyncio.sleep(5 * QUICK.poll_s)
        assert await claimed(house.ledger(one)) == attempts + 1, "one for the retry"

    play(scenario)


@pytest.mark.parametrize("number", [0, 1])
def test_a_place_of_a_round_that_is_done_is_cleared_by_one_attempt_at_most(play: Play, number: int) -> None:
    async def scenario(house: House) -> None:
        house.model.bad = {10.0}
        one = (await house.submit()).request.id
        house.start()
        await house.done(one)
        await house.service.retry(ANN, one)
        view = await house.until(one, lambda view: view.progress.done and view.progress.round == 1)
        await until_queue_is_empty(house)
        attempts = await claimed(house.ledger(one))
        await house.ledger(one).enqueue(number)
        await until_queue_is_empty(house)
        await asyncio.sleep(5 * QUICK.poll_s)
        assert await claimed(house.ledger(one)) <= attempts + 1
        again = await house.service.get(ANN, one)
        assert again.progress.last_id == view.progress.last_id, "nothing is told again"

    play(scenario)


def test_a_cancelled_analysis_of_a_model_that_is_not_there_ends(play: Play) -> None:
    async def scenario(house: House) -> None:
        one = (await house.submit()).request.id
        house.start(models=("another",))
        await asyncio.sleep(5 * QUICK.poll_s)
        assert await claimed(house.ledger(one)) == 0, "it waits for its model, and costs no attempts"
        await house.service.cancel(ANN, one)
        view = await house.done(one)
        assert view.progress.state == "cancelled"
        assert view.result is not None
        assert view.result["coverage"]["clips_failed_by_code"] == {"cancelled": CLIPS}
        assert (view.result["model"], view.result["model_revision"]) == ("sim", MODEL.revision)
        await until_queue_is_empty(house)

    play(scenario)


def test_a_cancelled_analysis_ends_although_no_slot_is_free(play: Play) -> None:
    async def scenario(house: House) -> None:
        house.model.held = True
        first = (await house.submit()).request.id
        house.start(settings=dataclasses.replace(QUICK, at_once=1))
        await until(lambda: bool(house.model.calls))
        second = (await house.submit(prompt="another")).request.id
        await asyncio.sleep(5 * QUICK.poll_s)
        assert await claimed(house.ledger(second)) == 0
        await house.service.cancel(ANN, second)
        assert (await house.done(second)).progress.state == "cancelled"
        assert not (await house.service.get(ANN, first)).progress.done

    play(scenario)


def test_one_broken_analysis_keeps_no_other_from_running(play: Play) -> None:
    async def scenario(house: House) -> None:
        broken = [(await house.submit(prompt=str(n))).request.id for n in range(3)]
        await objects.put(house.store, f"owners/ann/analyses/{broken[0]}/request.json", b"{")
        await objects.put(house.store, f"queue/{broken[1]}.000", b"\xff")
        await objects.put(house.store, f"owners/ann/analyses/{broken[2]}/attempts/000001.json", b"{}")
        for name in ("what", "ana_0.000", f"{broken[0]}.x", "deeper/one"):
            await objects.put(house.store, f"queue/{name}", b"ann")
        runner = house.start()
        for prompt in ("while they are there", "and after"):
            one = (await house.submit(prompt=prompt)).request.id
            assert (await house.done(one)).progress.state == "completed"
        assert not runner.done()

    play(scenario)


def test_nodes_that_cannot_be_listed_end_neither_the_runner_nor_its_work(play: Play) -> None:
    async def scenario(house: House) -> None:
        asked = 0

        def failing() -> dict[str, bool]:
            nonlocal asked
            asked += 1
            raise RuntimeError("the GCS does not answer")

        one = (await house.submit()).request.id
        runner = house.start(known=failing)
        assert (await house.done(one)).progress.state == "completed"
        assert asked
        assert not runner.done()

    play(scenario)


def test_a_place_without_an_analysis_is_somebody_about_to_submit_for_an_hour(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(house: House) -> None:
        with broken_store(once("create", "request.json")), pytest.raises(StorageFailed):
            await house.submit()
        house.start()
        await asyncio.sleep(5 * QUICK.poll_s)
        [(one, since_s)] = (await waiting(house.store)).items()
        assert (one.round, one.cancelled) == (0, False)
        assert abs(since_s - time.time()) < 60
        monkeypatch.setattr(runner_module, "LEFT_OVER_S", -3600.0)
        await until_queue_is_empty(house)

    play(scenario)


def test_a_listing_tells_rounds_and_which_of_them_are_to_stop(play: Play) -> None:
    async def scenario(house: House) -> None:
        one, two = [(await house.submit(prompt=str(n))).request.id for n in range(2)]
        await house.service.cancel(ANN, two)
        await house.ledger(one).enqueue(1)
        assert list(await waiting(house.store)) == [
            Waiting(one, 0, False),
            Waiting(one, 1, False),
            Waiting(two, 0, True),
        ]
        await house.ledger(one).dequeue(1)
        await house.ledger(two).dequeue(0)
        assert await queued(house) == []

    play(scenario)


def test_a_runner_forgets_the_failures_of_what_waits_no_more() -> None:
    backoff, one = Backoff(), Waiting("ana_0", 0, False)
    assert backoff.is_due(one)
    first_s, second_s = backoff.failed(one), backoff.failed(one)
    assert 0.8 <= first_s <= 1.2 < 1.6 <= second_s <= 2.4
    assert not backoff.is_due(one)
    assert backoff.is_due(one._replace(cancelled=True)), "a cancelled one is ended at once"
    backoff.keep({one})
    assert not backoff.is_due(one)
    backoff.keep({})
    assert len(backoff) == 0
