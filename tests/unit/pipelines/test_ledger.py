import asyncio
import json
from pathlib import Path

import pytest

from deployments.errors import OutputConflict
from pipelines.ledger import Ledger
from pipelines.outcome import ClipError, ClipOutcome
from pipelines.store import open_store

REQUEST = {"sha256": "ab", "prompt": "What?", "sampling": {"fps": None}}


def outcome(index: int, text: str = "A cat.") -> ClipOutcome:
    return ClipOutcome(index=index, start_s=0.0, end_s=1.0, frames_planned=1, pts_s=(0.5,), text=text)


def test_the_same_request_finds_its_analysis_again(tmp_path: Path) -> None:
    async def run() -> None:
        ledger = Ledger(open_store(str(tmp_path)), "v/")
        first = await ledger.claim(REQUEST)
        assert first.startswith("ana_")
        assert await Ledger(open_store(str(tmp_path)), "v/").claim(dict(REQUEST)) == first
        assert json.loads((tmp_path / "v/request.json").read_text())["analysis_id"] == first

    asyncio.run(run())


def test_other_work_in_the_same_place_is_refused_naming_the_difference(tmp_path: Path) -> None:
    async def run() -> None:
        ledger = Ledger(open_store(str(tmp_path)))
        await ledger.claim(REQUEST)
        with pytest.raises(OutputConflict, match='expected prompt "What\\?", got "Why\\?"'):
            await ledger.claim(REQUEST | {"prompt": "Why?"})

    asyncio.run(run())


def test_an_outcome_is_recorded_once_and_the_first_stands(tmp_path: Path) -> None:
    async def run() -> None:
        ledger = Ledger(open_store(str(tmp_path)))
        racers = await asyncio.gather(*(ledger.commit(outcome(7, f"racer {n}")) for n in range(32)))
        assert len({racer.text for racer in racers}) == 1
        found = await ledger.outcomes()
        assert found == {7: racers[0]}

    asyncio.run(run())


@pytest.mark.parametrize("damage", [b"", b'{"index": 1, "te', b"\xff\xfe", b"[]", b"{}", b'{"pts_s": null}'])
def test_a_clip_whose_outcome_is_damaged_has_none_until_another_is_recorded(tmp_path: Path, damage: bytes) -> None:
    async def run() -> None:
        ledger = Ledger(open_store(str(tmp_path)))
        await ledger.commit(outcome(1))
        await ledger.commit(outcome(2))
        (tmp_path / "clips/000001.json").write_bytes(damage)
        assert await ledger.outcomes() == {2: outcome(2)}
        assert await ledger.commit(outcome(1, "A dog.")) == outcome(1, "A dog.")
        assert await ledger.commit(outcome(1, "A bird.")) == outcome(1, "A dog.")
        assert await ledger.outcomes() == {1: outcome(1, "A dog."), 2: outcome(2)}

    asyncio.run(run())


def test_outcomes_come_back_as_they_went_in(tmp_path: Path) -> None:
    failed = ClipOutcome(index=2, start_s=2.0, end_s=3.0, frames_planned=4, error=ClipError("poison_clip", "nö"))

    async def run() -> None:
        ledger = Ledger(open_store(str(tmp_path)), "deep/er/")
        await ledger.commit(outcome(1))
        await ledger.commit(failed)
        assert await ledger.outcomes() == {1: outcome(1), 2: failed}
        assert await Ledger(open_store(str(tmp_path)), "else/").outcomes() == {}

    asyncio.run(run())
