"""Looking at analyses costs what is new, whatever stands already; and shows what stands, whatever goes wrong."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from obstore.store import LocalStore, ObjectStore

from deployments.errors import AnalysisConflict, NotFound, StorageFailed
from pipelines import store as objects
from pipelines.store import open_store
from serve_app.analyses import followed
from serve_app.analyses import watch as watch_module
from serve_app.analyses.journal import Event, Journal
from serve_app.analyses.service import Analyses
from serve_app.files import Files
from serve_app.principal import Principal, Role
from tests.app.analysis_house import until
from tests.app.made_up import COVERAGE, MODEL, Analysis

pytestmark = pytest.mark.timeout(60)
ANN, BOB = Principal("ann", Role.ANALYST), Principal("bob", Role.ANALYST)
Play = Callable[[Callable[[ObjectStore], Coroutine[Any, Any, None]]], None]


@pytest.fixture(autouse=True)
def seen_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look asks whether the analysis is still there."""
    monkeypatch.setattr(followed, "_SEEN_S", 0.0)


async def _no_probe(_: Path) -> Any:
    raise AssertionError("nothing is probed here")


async def _no_nudge() -> None:
    pass


def gateway(store: ObjectStore) -> Analyses:
    return Analyses(store, Files(store, _no_probe, max_bytes=1), {"sim": MODEL}, _no_nudge)


async def ids(events: AsyncIterator[list[Event]]) -> list[int]:
    return [event.id async for some in events for event in some]


@pytest.fixture(params=["memory", "s3"])
def play(request: pytest.FixtureRequest) -> Play:
    target = "memory:///" if request.param == "memory" else request.getfixturevalue("s3_url")

    async def run(scenario: Callable[[ObjectStore], Coroutine[Any, Any, None]]) -> None:
        async with asyncio.timeout(30):
            await scenario(open_store(target))

    return lambda scenario: asyncio.run(run(scenario))


class Requests:
    """Counts what is asked of the store, by the kind of object."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        for name in ("find", "get", "exists", "sizes_below"):
            self._count(monkeypatch, name)

    def _count(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        real = getattr(objects, name)

        async def counted(store: ObjectStore, path: str) -> Any:
            self.made[path.split("/")[4] if path.count("/") > 3 else path] += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                return await real(store, path)
            finally:
                self.at_once -= 1

        monkeypatch.setattr(objects, name, counted)

    def take(self) -> Counter[str]:
        made, self.made = self.made, Counter()
        return made


@pytest.mark.parametrize("together", [1, 3, 100])
def test_events_are_read_from_any_id_whatever_an_object_holds(play: Play, together: int) -> None:
    async def scenario(store: ObjectStore) -> None:
        one = await Analysis(store, clips=150, together=together).whole()
        last_id, journal = len(one.events), one.ledger.journal
        assert await journal.all_after(0) == one.events
        for after in (0, 1, 2, 50, 63, 64, 65, 101, last_id - 1, last_id):
            assert await ids(journal.between(after, last_id)) == list(range(after + 1, last_id + 1))

    play(scenario)


def test_a_look_costs_what_is_new_and_no_result(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(store: ObjectStore) -> None:
        requests = Requests(monkeypatch)
        service, costs = gateway(store), []
        for clips in (5, 300):
            one = Analysis(store, clips)
            await one.submit()
            await one.begin()
            await one.describe(range(clips - 1))
            await service.get(ANN, one.id)
            requests.take()
            assert (await service.get(ANN, one.id)).progress.clips_done == clips - 1
            idle = requests.take()
            await one.describe([clips - 1])
            assert (await service.get(ANN, one.id)).progress.clips_done == clips
            busy = requests.take()
            await one.end()
            await service.get(ANN, one.id)
            requests.take()
            assert (await service.get(ANN, one.id)).progress.coverage == COVERAGE
            costs.append((idle, busy, requests.take()))
        assert costs[0] == costs[1], "no matter how long it is"
        assert max(cost.total() for cost in costs[0]) <= 5
        assert not any(name.startswith("result") for cost in costs[0] for name in cost)

    play(scenario)


def test_a_page_of_clips_costs_its_length_wherever_it_lies(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(store: ObjectStore) -> None:
        one = await Analysis(store, clips=600).whole()
        service = gateway(store)
        await service.get(ANN, one.id)
        requests = Requests(monkeypatch)
        after, costs, found = 0, [], []
        while True:
            clips, more = await service.clips(ANN, one.id, after=after, limit=50)
            costs.append(requests.take().total())
            found += [event.data["index"] for event in clips]
            if not more:
                break
            after = clips[-1].id
        assert found == list(range(600))
        assert max(costs[1:]) <= costs[0] <= 80

    play(scenario)


def test_a_first_look_and_a_watcher_read_in_bounded_lots(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(store: ObjectStore) -> None:
        one = await Analysis(store, clips=600).whole()
        requests = Requests(monkeypatch)
        assert (await gateway(store).get(ANN, one.id)).progress.clips_done == 600
        assert requests.most_at_once <= 64
        requests.take()
        service = gateway(store)
        await service.get(ANN, one.id)
        requests.take()
        watched = service.events(ANN, one.id, after=0)
        assert (await anext(watched))[0].id == 1
        assert requests.take().total() <= 70, "before all of it is read"
        await watched.aclose()  # type: ignore[attr-defined]

    play(scenario)


def test_the_same_first_look_by_many_is_one(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(store: ObjectStore) -> None:
        one = await Analysis(store, clips=200).whole()
        requests = Requests(monkeypatch)
        service = gateway(store)
        views = await asyncio.gather(*(service.get(ANN, one.id) for _ in range(10)))
        assert {view.progress.last_id for view in views} == {len(one.events)}
        assert requests.take()["events"] <= 202 + 64 + 10

    play(scenario)


def test_a_view_does_not_change_behind_its_readers_back(play: Play) -> None:
    async def scenario(store: ObjectStore) -> None:
        one = Analysis(store, clips=3)
        await one.submit()
        await one.begin()
        service = gateway(store)
        before = await service.get(ANN, one.id)
        await one.describe(range(3))
        assert (await service.get(ANN, one.id)).progress.clips_done == 3
        assert before.progress.clips_done == 0

    play(scenario)


def test_a_watcher_with_an_id_from_nowhere_harms_nobody(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "POLL_S", 0.01)

    async def scenario(store: ObjectStore) -> None:
        one = Analysis(store, clips=5)
        await one.submit()
        await one.begin()
        service = gateway(store)
        far = asyncio.create_task(ids(service.events(ANN, one.id, after=2**52)))
        await until(lambda: service.watchers == 1)
        await asyncio.sleep(0.05)
        near = asyncio.create_task(ids(service.events(ANN, one.id, after=0)))
        await until(lambda: service.watchers == 2)
        await one.describe(range(5))
        await one.end()
        async with asyncio.timeout(5):
            assert await near == [1, 2, 3, 4, 5, 6, 7]
            assert await far == [2, 3, 4, 5, 6, 7], "what comes from now on"
        assert service.watchers == 0

    play(scenario)


def test_a_watcher_that_is_far_behind_the_others_misses_nothing(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "POLL_S", 0.01)
    monkeypatch.setattr(watch_module, "_RECENT_EVENTS", 4)

    async def scenario(store: ObjectStore) -> None:
        one = Analysis(store, clips=300)
        await one.submit()
        await one.begin()
        service = gateway(store)
        quick = asyncio.create_task(ids(service.events(ANN, one.id, after=0)))
        slow, taken = service.events(ANN, one.id, after=0), []
        taken += [event.id for event in await anext(slow)]
        waiting = asyncio.ensure_future(anext(slow))
        await asyncio.sleep(0.05)
        await one.describe(range(200))
        taken += [event.id for event in await waiting]
        await one.describe(range(200, 300))
        await one.end()
        assert await quick == list(range(1, 303))
        assert taken + await ids(slow) == list(range(1, 303))

    play(scenario)


def test_nothing_follows_behind_the_end(play: Play) -> None:
    async def scenario(store: ObjectStore) -> None:
        one = await Analysis(store, clips=3).whole()
        for after in (len(one.events), len(one.events) + 1, 2**52):
            async with asyncio.timeout(5):
                assert await ids(gateway(store).events(ANN, one.id, after=after)) == []

    play(scenario)


def test_a_journal_that_makes_no_sense_keeps_nobody_waiting(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "POLL_S", 0.01)

    async def scenario(store: ObjectStore) -> None:
        one = Analysis(store, clips=5)
        await one.submit()
        await one.begin()
        watching = asyncio.create_task(ids(gateway(store).events(ANN, one.id, after=0)))
        await asyncio.sleep(0.05)
        await objects.create(store, f"owners/ann/analyses/{one.id}/events/00000002.json", b"no JSON")
        async with asyncio.timeout(5):
            with pytest.raises(ValueError, match="Expecting value"):
                await watching

    play(scenario)


def test_what_another_gateway_deleted_is_gone_here_too(play: Play) -> None:
    async def scenario(store: ObjectStore) -> None:
        one = await Analysis(store, clips=3).whole()
        here, there = gateway(store), gateway(store)
        assert (await here.get(ANN, one.id)).progress.done
        await there.delete(ANN, one.id)
        for look in (here.get(ANN, one.id), here.result(ANN, one.id), here.clips(ANN, one.id, after=0, limit=1)):
            with pytest.raises(NotFound):
                await look
        assert (await here.page(ANN, after=None, limit=10)).views == []
        with pytest.raises(NotFound):
            await ids(here.events(ANN, one.id, after=0))

    play(scenario)


def test_what_was_there_just_now_is_not_asked_for_again(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "_SEEN_S", 60.0)

    async def scenario(store: ObjectStore) -> None:
        one = await Analysis(store, clips=3).whole()
        service = gateway(store)
        await service.get(ANN, one.id)
        requests = Requests(monkeypatch)
        await service.get(ANN, one.id)
        assert requests.take().total() == 1, "the next event"
        await service.delete(ANN, one.id)
        with pytest.raises(NotFound):
            await service.get(ANN, one.id)

    play(scenario)


def test_a_result_is_its_owners_and_there_once_it_is_done(play: Play) -> None:
    async def scenario(store: ObjectStore) -> None:
        one, service = Analysis(store, clips=3), gateway(store)
        await one.submit()
        await one.begin()
        with pytest.raises(AnalysisConflict, match="expected an analysis that is done, got one that is running"):
            await service.result(ANN, one.id)
        await one.describe(range(3))
        await one.end()
        assert [clip["text"] for clip in (await service.result(ANN, one.id))["clips"]] == ["clip 0", "clip 1", "clip 2"]
        with pytest.raises(NotFound):
            await service.result(BOB, one.id)

    play(scenario)


def test_a_page_is_full_whatever_folders_deleted_analyses_leave(tmp_path: Path) -> None:
    async def run() -> None:
        store = open_store(str(tmp_path))
        assert isinstance(store, LocalStore)
        service = gateway(store)
        kept: list[str] = []
        gone: list[str] = []
        for n in range(12):
            one = await Analysis(store, clips=1).whole()
            (gone if n % 2 else kept).append(one.id)
        for one_id in gone:
            await service.delete(ANN, one_id)
        assert set(gone) & set(await objects.folders_below(store, "owners/ann/analyses")), "empty folders stand"
        found, after = [], None
        for _ in range(3):
            page = await service.page(ANN, after=after, limit=2)
            assert len(page.views) == 2
            found += [view.request.id for view in page.views]
            after = found[-1]
            assert page.has_more == (len(found) < 6)
        assert found == kept[::-1]

    asyncio.run(run())


def test_a_failure_of_the_store_ends_a_watch_with_its_name(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(store: ObjectStore) -> None:
        one = await Analysis(store, clips=200).whole()
        service = gateway(store)
        after, calls = Journal.after, 0
        await service.get(ANN, one.id)

        async def failing(journal: Journal, last_id: int, most: int = 1) -> list[Event]:
            nonlocal calls
            calls += 1
            if calls > 2:
                raise StorageFailed("cannot read")
            return await after(journal, last_id, most)

        monkeypatch.setattr(Journal, "after", failing)
        with pytest.raises(StorageFailed):
            await ids(service.events(ANN, one.id, after=0))

    play(scenario)
