"""Captions are kept as long as a file or an analysis of their video is there, and no longer."""

from typing import Any

import pytest

from pipelines import store as objects
from serve_app.analyses.cache_sweep import CacheSweep
from serve_app.janitor import sweep
from serve_app.uploads import Uploads
from tests.app.analysis_house import ANN, CLIPS, House, Play, broken_store, until_queue_is_empty

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("decoded_in_no_time")]


async def described(house: House, **options: Any) -> str:
    """Have the house's video described and return the analysis's id."""
    one = (await house.submit(**options)).request.id
    await house.done(one)
    await until_queue_is_empty(house)
    return one


async def swept(house: House, cache: CacheSweep | None = None) -> int:
    """Return how many captions a sweep removed."""
    uploads = Uploads(house.store, house.files, max_part_bytes=100, ttl_s=60)
    return (await sweep(house.store, house.files, uploads, cache)).captions


async def captions(house: House) -> int:
    return len(await objects.sizes_below(house.store, "owners/ann/cache"))


@pytest.mark.parametrize("last", ["file", "analysis"])
def test_captions_go_when_neither_a_file_nor_an_analysis_of_their_video_is_left(play: Play, last: str) -> None:
    async def scenario(house: House) -> None:
        house.start()
        one, other = await described(house), await described(house, prompt="another")
        file = await house.file()
        await house.file(b"video of nobody's interest")
        await house.service.delete(ANN, one)
        assert await swept(house) == 0
        if last == "file":
            await house.service.delete(ANN, other)
            assert await swept(house) == 0
            await house.files.delete(ANN, file.id)
        else:
            await house.files.delete(ANN, file.id)
            assert await swept(house) == 0
            await house.service.delete(ANN, other)
        assert await captions(house) == 2 * CLIPS
        assert await swept(house) == 2 * CLIPS
        assert await captions(house) == 0
        assert await swept(house) == 0

    play(scenario)


@pytest.mark.parametrize("folder", ["files", "analyses"])
def test_captions_stay_where_a_record_that_cannot_be_read_may_name_their_video(
    play: Play, caplog: pytest.LogCaptureFixture, folder: str
) -> None:
    async def scenario(house: House) -> None:
        house.start()
        one = await described(house)
        await house.service.delete(ANN, one)
        await house.files.delete(ANN, (await house.file()).id)
        name = {"files": f"file_{'0' * 24}.json", "analyses": f"ana_{'0' * 24}/request.json"}[folder]
        await objects.put(house.store, f"owners/ann/{folder}/{name}", b"{")
        assert await swept(house) == 0
        assert await captions(house) == CLIPS
        assert "cannot be swept" in caplog.text
        await objects.delete(house.store, f"owners/ann/{folder}/{name}")
        assert await swept(house) == CLIPS

    play(scenario)


def test_what_an_analysis_is_about_is_read_by_one_sweep_and_remembered(play: Play) -> None:
    async def scenario(house: House) -> None:
        house.start()
        await described(house)
        await house.files.delete(ANN, (await house.file()).id)
        reads: list[str] = []

        def noted(verb: str, path: str) -> bool:
            if verb == "find" and path.endswith("request.json"):
                reads.append(path)
            return False

        cache = CacheSweep(house.store)
        with broken_store(noted):
            for _ in range(3):
                assert await swept(house, cache) == 0
        assert len(reads) == 1

    play(scenario)
