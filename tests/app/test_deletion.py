"""A deleted analysis is gone at once, and all of it in the end, whatever is cut off."""

import asyncio
import time

import pytest

from deployments.errors import NotFound, StorageFailed
from pipelines import store as objects
from serve_app.analyses.ledger import AnalysisLedger, Claim
from serve_app.janitor import sweep
from serve_app.uploads import Uploads
from tests.app.analysis_house import ANN, House, Play, broken_store, once, queued, until_queue_is_empty

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("decoded_in_no_time")]
HOUR_S = 3600.0


async def left(house: House) -> set[str]:
    """Return what there is of the owner's analyses."""
    below = [await objects.sizes_below(house.store, f"owners/ann/{folder}") for folder in ("analyses", "deleted")]
    return {path for paths in below for path in paths}


async def swept(house: House, now_s: float) -> int:
    uploads = Uploads(house.store, house.files, max_part_bytes=100, ttl_s=60)
    return (await sweep(house.store, house.files, uploads, now_s=now_s)).analyses


@pytest.mark.parametrize("part", ["events/", "clips/", "result", "rounds/"])
def test_a_deletion_that_was_cut_off_hides_the_analysis_at_once_and_is_finished_later(play: Play, part: str) -> None:
    async def scenario(house: House) -> None:
        house.model.bad = {10.0}
        one = (await house.submit()).request.id
        other = (await house.submit(prompt="another")).request.id
        house.start()
        for number in range(2):
            view = await house.until(one, lambda view: view.progress.done and view.progress.round == number)  # noqa: B023
            if not number:
                await house.service.retry(ANN, one)
        assert view.progress.state == "partial"
        await house.done(other)
        await until_queue_is_empty(house)
        with broken_store(once("delete", part)), pytest.raises(StorageFailed):
            await house.service.delete(ANN, one)
        for gateway in (house.service, house.gateway()):
            page = await gateway.page(ANN, after=None, limit=10)
            assert [view.request.id for view in page.views] == [other]
            with pytest.raises(NotFound):
                await gateway.get(ANN, one)
        assert any(one in path for path in await left(house))
        assert await swept(house, time.time()) == 0, "somebody may be at it"
        assert await swept(house, time.time() + 2 * HOUR_S) == 1
        assert not any(one in path for path in await left(house))
        assert (await house.gateway().get(ANN, other)).progress.done
        assert await swept(house, time.time() + 2 * HOUR_S) == 0

    play(scenario)


def test_what_is_written_after_a_deletion_goes_too(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    release = AnalysisLedger.release

    async def late(ledger: AnalysisLedger, claim: Claim) -> None:
        await asyncio.sleep(0.1)
        await release(ledger, claim)

    async def scenario(house: House) -> None:
        monkeypatch.setattr(AnalysisLedger, "release", late)
        one = (await house.submit()).request.id
        house.start()
        await house.done(one)
        await house.service.delete(ANN, one)
        await asyncio.sleep(0.3)
        assert await left(house) == {f"owners/ann/deleted/{one}"}, "its runner wrote nothing behind it"
        await objects.put(house.store, f"owners/ann/analyses/{one}/beat", b"1 7")
        await house.ledger(one).enqueue(0)
        await swept(house, time.time() + 2 * HOUR_S)
        assert await left(house) == set()
        assert await queued(house) == []

    play(scenario)


def test_an_analysis_that_cannot_be_read_hides_no_other(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(house: House) -> None:
        ids = [(await house.submit(prompt=str(n))).request.id for n in range(3)]
        await objects.put(house.store, f"owners/ann/analyses/{ids[0]}/request.json", b'{"id": 1}')
        await objects.put(house.store, f"owners/ann/analyses/{ids[1]}/events/00000001.json", b"[{")
        page = await house.gateway().page(ANN, after=None, limit=10)
        assert [view.request.id for view in page.views] == [ids[2]]
        assert sum("analysis cannot be read" in record.message for record in caplog.records) == 2

    play(scenario)
