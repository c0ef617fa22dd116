"""An analysis with something damaged in it, or a bug around its clips, comes to an end like any other."""

import asyncio

import pytest

from deployments.errors import NotFound
from pipelines import store as objects
from pipelines.store import sizes_below
from serve_app.analyses.cache import CaptionCache
from serve_app.analyses.ledger import AnalysisLedger
from tests.app.analysis_house import ANN, CLIPS, House, Play, claimed, kill, until_queue_is_empty

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("decoded_in_no_time", "impatient")]
TEXTS = ["0", "10", "20", "30", "40", "50"]


async def half_done(house: House, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return an analysis of which two clips are described when its runner is killed."""
    house.model.held = True
    one = (await house.submit()).request.id
    runner = house.start()
    for _ in range(2):
        house.model.permits.release()
    await house.until(one, lambda view: view.progress.clips_done == 2)
    await kill(runner, monkeypatch)
    house.model.held = False
    return one


async def damage(house: House, path: str) -> None:
    """Cut the object off in its middle, as a power failure may."""
    data = await objects.get(house.store, path)
    await objects.put(house.store, path, data[: len(data) // 2])


def test_a_clip_whose_outcome_is_damaged_is_described_again(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(house: House) -> None:
        one = await half_done(house, monkeypatch)
        for path in await sizes_below(house.store, f"owners/ann/analyses/{one}/clips"):
            await damage(house, path)
        house.start()
        view = await house.done(one)
        assert (view.progress.state, view.progress.clips_done) == ("completed", CLIPS)
        assert view.result is not None
        assert [clip.get("text") for clip in view.result["clips"]] == TEXTS
        assert len(await house.ledger(one).outcomes(0)) == CLIPS
        assert await house.ledger(one).failures(0) == []
        assert "expected a clip's outcome, got a damaged object" in caplog.text

    play(scenario)


def test_a_damaged_caption_in_the_cache_is_made_again(play: Play) -> None:
    async def scenario(house: House) -> None:
        house.start()
        await house.done((await house.submit()).request.id)
        house.model.calls.clear()
        await damage(house, min(await sizes_below(house.store, "owners/ann/cache")))
        view = await house.done((await house.submit()).request.id)
        assert (view.progress.state, view.progress.attempt) == ("completed", 1)
        assert len(house.model.calls) == 1

    play(scenario)


def test_an_analysis_whose_journal_is_damaged_is_left_after_some_attempts_and_can_be_deleted(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(house: House) -> None:
        one = await half_done(house, monkeypatch)
        await damage(house, f"owners/ann/analyses/{one}/events/00000001.json")
        house.start()
        await until_queue_is_empty(house)
        assert len(await house.ledger(one).failures(0)) == 6
        assert "analysis cannot be ended and is left" in caplog.text
        attempts = await claimed(house.ledger(one))
        await asyncio.sleep(0.3)
        assert await claimed(house.ledger(one)) == attempts
        # One gateway has read the journal before it was damaged, the other one has not.
        assert (await house.service.get(ANN, one)).progress.state == "running"
        await house.service.delete(ANN, one)
        with pytest.raises(NotFound):
            await house.gateway().get(ANN, one)
        assert await sizes_below(house.store, f"owners/ann/analyses/{one}") == {}

    play(scenario)


def test_an_analysis_with_a_damaged_journal_can_be_deleted_at_a_gateway_that_cannot_read_it(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(house: House) -> None:
        one = await half_done(house, monkeypatch)
        await damage(house, f"owners/ann/analyses/{one}/events/00000001.json")
        await house.gateway().delete(ANN, one)
        assert await sizes_below(house.store, f"owners/ann/analyses/{one}") == {}

    play(scenario)


def test_an_analysis_that_fails_before_its_clips_are_begun_ends_too(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(cache: CaptionCache) -> set[str]:
        raise KeyError("a bug")

    async def scenario(house: House) -> None:
        monkeypatch.setattr(CaptionCache, "paths", broken)
        one = (await house.submit()).request.id
        house.start()
        view = await house.done(one)
        assert (view.progress.state, view.progress.attempt) == ("failed", 6)

    play(scenario)


def test_an_analysis_that_fails_after_its_last_clip_ends_with_all_of_them(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(cache: CaptionCache) -> set[str]:
        raise KeyError("a bug")

    async def scenario(house: House) -> None:
        one = (await house.submit()).request.id
        with monkeypatch.context() as patched:
            patched.setattr(AnalysisLedger, "finish", lambda *_: asyncio.sleep(60))
            runner = house.start()
            await house.until(one, lambda view: view.progress.clips_done == CLIPS)
            await kill(runner, patched)
        monkeypatch.setattr(CaptionCache, "paths", broken)
        house.start()
        view = await house.done(one)
        assert (view.progress.state, view.progress.clips_done) == ("completed", CLIPS)
        assert view.result is not None
        assert [clip.get("text") for clip in view.result["clips"]] == TEXTS
        assert view.result["summary"]["by"] == "extractive"

    play(scenario)


def test_a_cancelled_analysis_ends_whatever_fails_around_its_clips(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(cache: CaptionCache) -> set[str]:
        raise KeyError("a bug")

    async def scenario(house: House) -> None:
        one = await half_done(house, monkeypatch)
        for path in await sizes_below(house.store, f"owners/ann/analyses/{one}/clips"):
            await damage(house, path)
        monkeypatch.setattr(CaptionCache, "paths", broken)
        await house.service.cancel(ANN, one)
        house.start()
        view = await house.done(one)
        assert (view.progress.state, view.progress.attempt) == ("cancelled", 2)
        await until_queue_is_empty(house)
        await house.service.delete(ANN, one)

    play(scenario)
