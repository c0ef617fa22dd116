"""An attempt: what counts against an analysis and what does not, what a crash leaves, who goes when."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator

import pytest
from ray.exceptions import NodeDiedError, ObjectLostError, RayError

from deployments.contracts import Caption, DescribeRequest
from deployments.ray_errors import translate
from pipelines import drive
from pipelines.chain import DecodeRun
from pipelines.outcome import DecodedClip
from pipelines.plan import SamplingOptions
from pipelines.store import sizes_below
from serve_app import pace
from serve_app.analyses import describing
from serve_app.analyses.cache import CaptionCache
from tests.app.analysis_house import (
    ANN,
    CLIPS,
    QUICK,
    House,
    Play,
    broken_store,
    claimed,
    kill,
    until,
    until_queue_is_empty,
)
from tests.app.conftest import black_frames

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("decoded_in_no_time")]


def test_kills_before_the_first_caption_do_not_count(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(house: House) -> None:
        house.model.held = True
        one = (await house.submit()).request.id
        for number in range(6):
            house.model.calls.clear()
            runner = house.start()
            await until(lambda: bool(house.model.calls))
            await kill(runner, monkeypatch)
            assert await claimed(house.ledger(one)) == number + 1
        house.model.held = False
        house.start()
        assert (await house.done(one)).progress.state == "completed"

    play(scenario)


@pytest.mark.usefixtures("impatient")
def test_a_full_disk_pauses_the_work_until_there_is_room(play: Play) -> None:
    async def scenario(house: House) -> None:
        one = (await house.submit()).request.id
        with broken_store(lambda verb, path: verb == "create" and "clips/" in path):
            house.start()
            async with asyncio.timeout(10):
                while await claimed(house.ledger(one)) < 8:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert not (await house.service.get(ANN, one)).progress.done
        assert (await house.done(one)).progress.state == "completed"

    play(scenario)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("lost", [NodeDiedError("killed"), ObjectLostError("ff" * 28, None, "")])
def test_nodes_and_objects_that_ray_loses_pause_the_work(
    play: Play, monkeypatch: pytest.MonkeyPatch, lost: RayError
) -> None:
    async def losing(runs: list[DecodeRun], *, decode_cpus: float) -> AsyncGenerator[DecodedClip, None]:
        if runs:
            raise translate(lost)
        async for clip in black_frames(runs, decode_cpus=decode_cpus):
            yield clip

    async def scenario(house: House) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(drive, "decoded_clips", losing)
            one = (await house.submit()).request.id
            house.start()
            async with asyncio.timeout(10):
                while await claimed(house.ledger(one)) < 8:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert await house.ledger(one).failures(0) == []
        assert (await house.done(one)).progress.state == "completed"

    play(scenario)


@pytest.mark.usefixtures("impatient")
def test_an_error_of_its_own_again_and_again_ends_an_analysis(play: Play) -> None:
    async def scenario(house: House) -> None:
        async def broken(request: DescribeRequest) -> Caption:
            raise KeyError("a bug")

        house.model.describe = broken  # type: ignore[method-assign]
        one = (await house.submit()).request.id
        house.start()
        view = await house.done(one)
        assert view.progress.state == "failed"
        assert view.result is not None
        assert view.result["coverage"]["clips_failed_by_code"] == {"engine_failed": CLIPS}
        assert await claimed(house.ledger(one)) == 6
        failures = await house.ledger(one).failures(0)
        assert [(failure.clips, failure.code) for failure in failures] == [(0, "internal_error")] * 5
        await until_queue_is_empty(house)

    play(scenario)


def test_a_caption_that_a_crash_kept_from_the_cache_is_kept_by_the_next_attempt(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(house: House) -> None:
        house.model.held = True
        one = (await house.submit()).request.id
        with monkeypatch.context() as patched:
            patched.setattr(CaptionCache, "keep", lambda *_: asyncio.sleep(60))
            runner = house.start()
            house.model.permits.release()
            await house.until(one, lambda view: view.progress.clips_done == 1)
            stopping = asyncio.create_task(kill(runner, monkeypatch))
            await asyncio.sleep(0)
            for task in asyncio.all_tasks():
                if "_record_new" in repr(task):
                    task.cancel()
            await stopping
        assert await sizes_below(house.store, "owners/ann/cache") == {}
        house.model.held = False
        house.start()
        await house.done(one)
        assert len(await sizes_below(house.store, "owners/ann/cache")) == CLIPS

    play(scenario)


def test_a_store_that_does_not_list_for_a_moment_ends_no_attempt(play: Play) -> None:
    async def scenario(house: House) -> None:
        house.model.held = True
        one = (await house.submit()).request.id
        house.start()
        await until(lambda: bool(house.model.calls))
        with broken_store(lambda verb, path: verb in ("listed_below", "exists", "find", "put")):
            await asyncio.sleep(0.5)
        await house.service.cancel(ANN, one)
        view = await house.done(one)
        assert (view.progress.state, view.progress.attempt) == ("cancelled", 1)

    play(scenario)


def test_a_video_of_more_clips_than_a_turn_takes_is_described_whole(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describing, "_MOST_CLIPS_A_TURN", 4)
    lots: list[int] = []

    def counted(runs: list[DecodeRun], *, decode_cpus: float) -> AsyncGenerator[DecodedClip, None]:
        lots.append(sum(len(run.clips) for run in runs))
        return black_frames(runs, decode_cpus=decode_cpus)

    async def scenario(house: House) -> None:
        monkeypatch.setattr(drive, "decoded_clips", counted)
        lots.clear()
        house.start()
        assert (await house.done((await house.submit()).request.id)).progress.state == "completed"
        assert lots == [4, CLIPS - 4]

    play(scenario)


def test_a_short_video_is_not_stuck_behind_more_long_ones_than_may_decode(play: Play) -> None:
    async def scenario(house: House) -> None:
        settings = dataclasses.replace(QUICK, decoding=2, turn_s=0.2, in_flight_clips=2)
        house.model.held = True
        long = [
            (await house.submit(prompt=str(n), sampling=SamplingOptions(clip_duration_s=0.25))).request.id
            for n in range(3)
        ]
        house.start(settings=settings)
        for one in long:
            await house.until(one, lambda view: view.progress.state == "running")
        short = (await house.submit(prompt="short")).request.id

        async def answer() -> None:
            while True:
                house.model.permits.release()
                await asyncio.sleep(0.01)

        answering = asyncio.create_task(answer())
        async with asyncio.timeout(15):
            view = await house.done(short)
        assert view.progress.state == "completed"
        shares = [(await house.service.get(ANN, one)).progress for one in long]
        assert not any(progress.done for progress in shares)
        assert all(progress.clips_done for progress in shares), "each had a turn"
        assert {progress.attempt for progress in shares} == {1}
        answering.cancel()

    play(scenario)


def test_the_next_analysis_is_expected_to_take_as_long_as_the_last_one(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "MOMENT_S", 0.05)

    async def scenario(house: House) -> None:
        house.model.held = True
        first = (await house.submit()).request.id
        house.start()
        await until(lambda: bool(house.model.calls))
        assert (await house.service.get(ANN, first)).progress.eta_s(time.time()) is None, "there was none"
        for _ in range(CLIPS):
            await asyncio.sleep(0.1)
            house.model.permits.release()
        await house.done(first)
        house.model.calls.clear()
        second = (await house.submit(prompt="another question")).request.id
        await until(lambda: bool(house.model.calls))
        eta_s = (await house.service.get(ANN, second)).progress.eta_s(time.time())
        assert eta_s is not None
        assert 0.1 < eta_s < 10.0
        for _ in range(CLIPS):
            house.model.permits.release()
        await house.done(second)

    play(scenario)
