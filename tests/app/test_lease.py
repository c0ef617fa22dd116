"""Who holds an analysis keeps it while he works on it, and nobody waits long for the dead."""

import asyncio
import dataclasses
import time
from pathlib import Path

import pytest

from pipelines.store import open_store
from serve_app.analyses.lease import Free, Leases, Node
from serve_app.analyses.ledger import AnalysisLedger, Claim, released
from serve_app.analyses.run import Run
from tests.app.analysis_house import CLIPS, QUICK, House, Play, broken_store, claimed, once, until

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("decoded_in_no_time")]
LEASE_S, BEAT_S = 0.8, 0.1
HERE, OTHER = "here", "other"


class Looking:
    """A runner that looks at one analysis that another has claimed."""

    def __init__(self, folder: Path, nodes: dict[str, bool]) -> None:
        self.ledger = AnalysisLedger(open_store(str(folder)), "ann", "ana_0")
        self.leases = Leases("me", Node(HERE, lambda: nodes), lease_s=LEASE_S, beat_s=BEAT_S)

    async def look(self, number: int = 0) -> Free | None:
        await self.leases.begin({"ana_0"})
        return await self.leases.look(self.ledger, number)

    async def free_after_s(self) -> float:
        begun_s = time.monotonic()
        while await self.look() is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return time.monotonic() - begun_s


@pytest.mark.parametrize(
    ("nodes", "least_s", "most_s"),
    [
        ({HERE: True, OTHER: True}, LEASE_S, LEASE_S + 0.5),
        ({HERE: True, OTHER: False}, 0.0, 0.1),
        ({HERE: True}, 2.5 * BEAT_S, 2.5 * BEAT_S + 0.3),
    ],
    ids=["its node lives", "its node is dead", "its node is of another cluster or an earlier one"],
)
def test_a_claim_without_a_beat_is_lost_after_a_while_that_depends_on_its_node(
    tmp_path: Path, nodes: dict[str, bool], least_s: float, most_s: float
) -> None:
    async def run() -> None:
        looking = Looking(tmp_path, nodes)
        await looking.ledger.claim(Claim(1, 0, "another", OTHER))
        await looking.ledger.beat(Claim(1, 0, "another", OTHER), 3)
        assert least_s <= await looking.free_after_s() <= most_s

    asyncio.run(run())


def test_two_clusters_on_one_store_leave_each_other_alone(tmp_path: Path) -> None:
    async def run() -> None:
        looking = Looking(tmp_path, {HERE: True})
        theirs = Claim(1, 0, "another", OTHER)
        await looking.ledger.claim(theirs)
        for count in range(20):
            await looking.ledger.beat(theirs, count)
            assert await looking.look() is None
            await asyncio.sleep(BEAT_S)

    asyncio.run(run())


def test_a_claim_that_was_made_a_moment_ago_is_not_judged_by_the_beats_before_it(tmp_path: Path) -> None:
    async def run() -> None:
        looking = Looking(tmp_path, {HERE: True, OTHER: True})
        await looking.ledger.claim(Claim(1, 0, "another", OTHER))
        assert await looking.look() is None
        await asyncio.sleep(LEASE_S)
        await looking.ledger.claim(Claim(2, 0, "a third", OTHER))
        assert await looking.look() is None

    asyncio.run(run())


def test_what_is_free_is_free_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        looking = Looking(tmp_path, {HERE: True, OTHER: True})
        ledger = looking.ledger
        assert await looking.look() == Free(1, taken_over=False)
        first = Claim(1, 0, "another", OTHER)
        await ledger.claim(first)
        assert await looking.look() is None
        assert await looking.look(1) == Free(2, taken_over=False), "the round that it was for is done"
        await ledger.release(first)
        assert await looking.look() == Free(2, taken_over=False)
        await ledger.claim(Claim(2, 0, "me", HERE))
        assert await looking.look() == Free(3, taken_over=False), "ours, which we are not at"

    asyncio.run(run())


def test_a_claim_whose_answer_was_lost_is_ours(tmp_path: Path) -> None:
    async def run() -> None:
        ledger = AnalysisLedger(open_store(str(tmp_path)), "ann", "ana_0")
        ours = Claim(1, 0, "me", HERE)
        assert await ledger.claim(ours)
        assert await ledger.claim(ours), "sent twice by the store's client, the first answer lost"
        assert not await ledger.claim(dataclasses.replace(ours, runner="another"))

    asyncio.run(run())


def test_a_claim_whose_answer_is_an_error_costs_one_more_attempt_and_no_lease(play: Play) -> None:
    async def scenario(house: House) -> None:
        one = (await house.submit()).request.id
        with broken_store(once("create", "attempts/"), written=True):
            house.start(settings=dataclasses.replace(QUICK, lease_s=60.0))
            view = await house.done(one)
        assert view.progress.state == "completed"
        assert await claimed(house.ledger(one)) == 2

    play(scenario)


def test_a_runner_that_is_stopped_gives_its_work_free(play: Play) -> None:
    async def scenario(house: House) -> None:
        house.model.held = True
        patient = dataclasses.replace(QUICK, lease_s=60.0)
        house.nodes["other"] = True
        ids = [(await house.submit(prompt=str(n))).request.id for n in range(2)]
        first = house.start(settings=patient)
        await until(lambda: len(house.model.calls) == QUICK.in_flight_clips)
        for one in ids:
            await house.until(one, lambda view: view.progress.state == "running")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        for one in ids:
            last = await house.ledger(one).last_claim()
            assert last is not None
            assert await house.ledger(one).last_beat() == released(last)
        house.model.held = False
        house.start("other", settings=patient)
        for one in ids:
            assert (await house.done(one)).progress.state == "completed"

    play(scenario)


def test_work_that_hangs_loses_its_claim_also_to_its_own_runner(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(house: House) -> None:
        work, hanging = Run.work, asyncio.Event()

        async def hung(run: Run) -> None:
            """Hang, and not even end when it is cancelled, once."""
            if hanging.is_set():
                await work(run)
                return
            hanging.set()
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    if house.model.calls:
                        raise

        monkeypatch.setattr(Run, "work", hung)
        one = (await house.submit()).request.id
        house.start(settings=dataclasses.replace(QUICK, hung_s=0.5))
        view = await house.done(one)
        assert (view.progress.state, view.progress.attempt) == ("completed", 2)

    play(scenario)


def test_slow_clips_are_no_hang_and_to_wait_behind_them_is_none(play: Play) -> None:
    async def scenario(house: House) -> None:
        house.model.held = True
        slow = (await house.submit()).request.id
        house.start(settings=dataclasses.replace(QUICK, decoding=1, turn_s=60.0, hung_s=1.5))
        await until(lambda: bool(house.model.calls))
        waits = (await house.submit(prompt="waits for its turn")).request.id
        await house.until(waits, lambda view: view.progress.state == "running")
        for _ in range(CLIPS):
            await asyncio.sleep(0.4)
            house.model.permits.release()
        await house.done(slow)
        for _ in range(CLIPS):
            house.model.permits.release()
        for analysis in (slow, waits):
            view = await house.done(analysis)
            assert (view.progress.state, view.progress.attempt) == ("completed", 1)

    play(scenario)


def test_a_clip_that_waits_long_behind_those_of_others_is_no_hang(play: Play) -> None:
    async def scenario(house: House) -> None:
        house.model.held = True
        one = (await house.submit()).request.id
        house.start(settings=dataclasses.replace(QUICK, hung_s=0.3))
        await until(lambda: bool(house.model.calls))
        await asyncio.sleep(1.0)
        for _ in range(CLIPS):
            house.model.permits.release()
        view = await house.done(one)
        assert (view.progress.state, view.progress.attempt) == ("completed", 1)

    play(scenario)


def test_a_run_that_is_taken_over_stops_at_its_next_beat(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(house: House) -> None:
        house.model.held = True
        stopped = asyncio.Event()
        work = Run.work

        async def watched(run: Run) -> None:
            try:
                await work(run)
            except asyncio.CancelledError:
                stopped.set()
                raise

        monkeypatch.setattr(Run, "work", watched)
        one = (await house.submit()).request.id
        house.start()
        await until(lambda: len(house.model.calls) == QUICK.in_flight_clips)
        assert await house.ledger(one).claim(Claim(2, 0, "another", "elsewhere"))
        async with asyncio.timeout(5):
            await stopped.wait()
        assert len(house.model.calls) == QUICK.in_flight_clips, "no clip was sent any more"
        assert await house.ledger(one).last_beat() != released(Claim(1, 0, "", "")), (
            "the claim is not ours to give free"
        )
        # Its place is free here: the runner takes the analysis again once the other one is dead.
        house.model.held = False
        assert (await house.done(one)).progress.attempt == 3

    play(scenario)


def test_a_deposed_runner_cannot_change_how_the_round_ended(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(house: House) -> None:
        finish = AnalysisLedger.finish
        asleep, awake, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def late(ledger: AnalysisLedger, claim: Claim, result: dict[str, object]) -> None:
            """Fall asleep before the first attempt's result, and wake when the second one is about to write its own."""
            if claim.attempt == 1:
                asleep.set()
                await awake.wait()
                await finish(ledger, claim, result | {"clips": [], "status": "failed"})
                over.set()
            else:
                awake.set()
                await over.wait()
                await finish(ledger, claim, result)

        monkeypatch.setattr(AnalysisLedger, "finish", late)
        monkeypatch.setattr(AnalysisLedger, "beat", lambda *_: asyncio.sleep(0))
        # Who sleeps does not see that either, or would stop.
        monkeypatch.setattr(AnalysisLedger, "is_taken_over", lambda *_: asyncio.sleep(0, False))
        house.nodes["other"] = True
        one = (await house.submit()).request.id
        house.start()
        await asleep.wait()
        house.start("other")
        await house.done(one)
        await asyncio.sleep(0.2)
        view = await house.done(one)
        assert view.result is not None
        assert (len(view.result["clips"]), view.progress.state) == (CLIPS, "completed")
        assert [event.data["attempt"] for event in await house.events(one) if event.type == "done"] == [2]
        assert await house.ledger(one).result(0, 1) is not None, "it lies there, and nobody reads it"

    play(scenario)
