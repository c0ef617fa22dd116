"""Analyses from submission to result over a real ledger, with the decoder and the model made up: no Ray."""

import asyncio
import contextlib
import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import AnalysisConflict, Deposed, NotFound, StorageFailed, UnknownModel
from pipelines.outcome import ClipError, ClipOutcome
from pipelines.plan import SamplingOptions
from pipelines.store import open_store, sizes_below
from pipelines.summary import summary_of
from serve_app.analyses import record as record_module
from serve_app.analyses.followed import View
from serve_app.analyses.journal import Event, Journal
from serve_app.analyses.ledger import AnalysisLedger
from serve_app.analyses.reports import Reports
from serve_app.analyses.request import AnalysisOptions
from serve_app.analyses.submission import Asked
from tests.app.analysis_house import ANN, BOB, CLIPS, QUICK, House, Play, claimed, kill, until, until_reported
from tests.app.fakes import FakeModel

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("decoded_in_no_time")]


def more_done(than: int, view: View) -> bool:
    return view.progress.clips_done > than


def more_calls(model: FakeModel, than: int) -> bool:
    return len(model.calls) > than


def test_an_analysis_goes_from_the_queue_to_its_result(play: Play) -> None:
    async def scenario(house: House) -> None:
        asked = await house.submit(prompt="What?")
        assert (asked.progress.state, asked.progress.clips_total) == ("queued", None)
        with pytest.raises(AnalysisConflict, match="that is done, got one that is queued"):
            await house.service.result(ANN, asked.request.id)
        house.start()
        view = await house.done(asked.request.id)
        assert (view.progress.state, view.progress.clips_done, view.progress.fraction) == ("completed", CLIPS, 1.0)
        assert view.result is not None
        assert [clip["text"] for clip in view.result["clips"]] == ["0", "10", "20", "30", "40", "50"]
        assert view.result["coverage"]["described_s"] == 60.0
        async with asyncio.timeout(5):
            while await sizes_below(house.store, "queue"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    play(scenario)


def test_events_are_numbered_without_gaps_and_taken_up_anywhere(play: Play) -> None:
    async def scenario(house: House) -> None:
        one = (await house.submit()).request.id
        watching = asyncio.create_task(house.events(one))
        await asyncio.sleep(0.05)
        house.start()
        live = await watching
        assert [event.id for event in live] == list(range(1, CLIPS + 4))
        assert [event.type for event in live] == ["progress", *["clip"] * CLIPS, "summary", "done"]
        assert await house.events(one) == live, "told again as it was"
        for after in range(len(live)):
            assert await house.events(one, after) == live[after:]

    play(scenario)


def test_a_summary_of_what_is_there_comes_early_and_each_time_that_has_doubled(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_module, "FIRST_SUMMARY_CLIPS", 2)

    async def scenario(house: House) -> None:
        house.model.bad = {10.0}
        one = (await house.submit()).request.id
        house.start()
        await house.done(one)
        events = await house.events(one)
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        told = [event.data for event in events if event.type == "summary"]
        assert [(data["partial"], data.get("clips")) for data in told] == [(True, 2), (True, 4), (False, None)]
        for data in told[:-1]:
            before = [event.data for event in events if event.type == "clip"]
            seen = {clip["index"] for clip in before if "text" in clip}
            cited = {citation["clip"] for passage in data["passages"] for citation in passage["citations"]}
            assert cited
            assert cited <= seen
        assert [gap["start_s"] for gap in told[-1]["not_described"]] == [10.0]

    play(scenario)


def test_without_a_summary_none_is_told_early(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "FIRST_SUMMARY_CLIPS", 2)

    async def scenario(house: House) -> None:
        one = (await house.submit(summary=False)).request.id
        house.start()
        await house.done(one)
        assert "summary" not in {event.type for event in await house.events(one)}

    play(scenario)


def test_what_a_killed_runner_left_is_gone_on_with(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(house: House) -> None:
        one = (await house.submit()).request.id
        house.model.held = True
        for killed in range(3):  # each gets one clip done and is killed with two more in flight
            runner = house.start()
            house.model.permits.release()
            await house.until(one, functools.partial(more_done, killed))
            await asyncio.sleep(0.05)
            await kill(runner, monkeypatch)
        house.model.held = False
        house.start()
        view = await house.done(one)
        assert view.result is not None
        assert [clip.get("text") for clip in view.result["clips"]] == ["0", "10", "20", "30", "40", "50"]
        clips = [event.data["index"] for event in await house.events(one) if event.type == "clip"]
        assert sorted(clips) == list(range(CLIPS)), "each told once"
        assert len(house.model.calls) <= CLIPS + 3 * QUICK.in_flight_clips
        assert view.result["attempts"] == 4
        await until_reported(house, lambda report: report.finished["completed"] == 1)
        reports = await Reports(house.store).read()
        assert len(reports) == 4, "those of the dead stand"
        assert sum(report.described["sim"] for report in reports) == CLIPS, "each counted once"
        assert sum(sum(report.first_caption.counts) for report in reports) == 1
        assert [(report.attempts, report.takeovers) for report in sorted(reports, key=lambda one: one.at_s)] == [
            (1, 0),
            (1, 1),
            (1, 1),
            (1, 1),
        ]

    play(scenario)


def test_events_that_are_not_valid_are_warned_of_once_whatever_dies(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, written = Journal.append, list[Event]()

    async def dying(journal: Journal, events: Sequence[Event]) -> None:
        """Write the events of one clip at most, then die: no runner gets to what it would have written next."""
        if written:
            raise StorageFailed("died")
        await append(journal, events)
        written.extend(event for event in events if event.type == "clip")

    async def scenario(house: House) -> None:
        house.model.events = "nothing of that kind"
        one = (await house.submit(events=("fall",))).request.id
        ledger = AnalysisLedger(house.store, "ann", one)
        with monkeypatch.context() as patched:
            patched.setattr(Journal, "append", dying)
            for _ in range(3):
                written.clear()
                runner = house.start()
                attempts = await claimed(ledger)
                await until(lambda: bool(written))
                await kill(runner, patched)
                assert await claimed(ledger) == attempts + 1
        house.start()
        view = await house.done(one)
        events = await house.events(one)
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        clips = [event for event in events if event.type == "clip"]
        warnings = [event for event in events if event.type == "warning"]
        assert sorted(event.data["index"] for event in clips) == list(range(CLIPS))
        assert [event.id for event in warnings] == [event.id + 1 for event in clips], "right behind its clip"
        assert [event.data["index"] for event in warnings] == [event.data["index"] for event in clips]
        assert warnings[0].data["code"] == "invalid_events"
        assert warnings[0].data["message"] == "expected a JSON array of events, got 'nothing of that kind'"
        assert view.progress.state == "completed", "a clip whose events are not valid is described"
        assert view.result is not None
        assert (view.result["coverage"]["clips_events_valid"], view.result["coverage"]["clips_events_invalid"]) == (
            0,
            CLIPS,
        )

    play(scenario)


def test_the_events_of_all_clips_make_one_timeline_and_other_kinds_are_another_question(play: Play) -> None:
    async def scenario(house: House) -> None:
        house.start()
        house.model.events = json.dumps([{"event": "fall", "object": "a cat", "time_s": 4}])
        view = await house.done((await house.submit(events=("fall", "rise"))).request.id)
        assert view.result is not None
        assert [(event["time_s"], event["clip"]) for event in view.result["events"]] == [
            (10.0 * index + 4, index) for index in range(CLIPS)
        ]
        assert len(house.model.calls) == CLIPS
        for events, calls in ((("fall", "rise"), 0), (("fall",), CLIPS), ((), CLIPS)):
            house.model.calls.clear()
            view = await house.done((await house.submit(events=events)).request.id)
            assert view.result is not None
            assert len(house.model.calls) == calls
            assert view.result["coverage"]["reused"] == (0 if calls else CLIPS)
            assert len(view.result["events"]) == (CLIPS if events else 0)

    play(scenario)


def test_a_claim_is_taken_over_when_its_lease_is_over_or_its_node_is_gone(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(house: House) -> None:
        one = (await house.submit()).request.id
        house.model.held = True
        house.nodes = {"node": True, "other": True}
        first = house.start()
        await until(lambda: bool(house.model.calls))
        second = house.start("other")
        await asyncio.sleep(2 * QUICK.lease_s)
        ledger = AnalysisLedger(house.store, "ann", one)
        assert await claimed(ledger) == 1, "who lives keeps the claim"
        await kill(first, monkeypatch)
        begun_s = asyncio.get_running_loop().time()
        while await claimed(ledger) == 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() - begun_s >= QUICK.lease_s / 2
        await kill(second, monkeypatch)
        house.nodes = {"node": True, "other": False}
        house.start()
        begun_s = asyncio.get_running_loop().time()
        while await claimed(ledger) == 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() - begun_s < QUICK.lease_s, "no need to wait for the dead"

    play(scenario)


def test_a_runner_that_was_deposed_can_write_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        journal = Journal(open_store(str(tmp_path)), "events/")
        old, new = (Event(1, "progress", 0.0, {"attempt": attempt}) for attempt in (1, 2))
        await journal.append([new])
        await journal.append([new])  # the answer was lost: written again, it stands once
        with pytest.raises(Deposed):
            await journal.append([old])
        assert await journal.all_after(0) == [new]

    asyncio.run(run())


def test_failed_clips_are_listed_and_done_again(play: Play) -> None:
    async def scenario(house: House) -> None:
        house.model.bad = {10.0, 30.0}
        one = (await house.submit()).request.id
        house.start()
        view = await house.done(one)
        assert view.progress.state == "partial"
        assert view.result is not None
        assert view.result["coverage"]["clips_failed_by_code"] == {"clip_rejected": 2}
        assert (view.progress.clips_done, view.progress.clips_failed) == (CLIPS, 2)
        house.model.bad = {30.0}
        house.model.calls.clear()
        assert (await house.service.retry(ANN, one)).progress.round == 1
        view = await house.until(one, lambda view: view.progress.done and view.progress.round == 1)
        assert sorted(house.model.calls) == [10.0, 30.0]
        assert view.result is not None
        assert [clip.get("text") for clip in view.result["clips"]] == ["0", "10", "20", None, "40", "50"]
        house.model.bad = set()
        await house.service.retry(ANN, one)
        view = await house.until(one, lambda view: view.progress.done and view.progress.round == 2)
        assert view.progress.state == "completed"
        with pytest.raises(AnalysisConflict, match="with failed clips, got one with none"):
            await house.service.retry(ANN, one)

    play(scenario)


def test_cancel_means_stop_and_a_cancelled_analysis_can_go_on(play: Play) -> None:
    async def scenario(house: House) -> None:
        one = (await house.submit()).request.id
        house.model.held = True
        runner = house.start()
        await until(lambda: len(house.model.calls) == 2)
        await house.service.cancel(ANN, one)
        view = await house.done(one)
        assert view.progress.state == "cancelled"
        assert view.result is not None
        missing = [clip for clip in view.result["clips"] if "error" in clip]
        assert {clip["error"]["code"] for clip in missing} == {"cancelled"}
        assert len(missing) >= CLIPS - QUICK.in_flight_clips
        calls = len(house.model.calls)
        await asyncio.sleep(0.2)
        assert len(house.model.calls) == calls, "no new inference"
        assert not runner.done()
        house.model.held = False
        await house.service.retry(ANN, one)
        view = await house.until(one, lambda view: view.progress.done and view.progress.round == 1)
        assert view.progress.state == "completed"

    play(scenario)


def test_an_analysis_past_its_deadline_says_what_it_did_not_see(play: Play) -> None:
    async def scenario(house: House) -> None:
        house.model.held = True
        one = (await house.submit(deadline_s=0.5)).request.id
        house.start()
        view = await house.done(one)
        assert view.result is not None
        assert view.progress.state == "failed"
        assert view.result["coverage"]["clips_failed_by_code"] == {"deadline_exceeded": CLIPS}

    play(scenario)


def test_the_same_work_is_not_done_twice(play: Play) -> None:
    async def scenario(house: House) -> None:
        house.start()
        await house.done((await house.submit()).request.id)
        house.model.calls.clear()
        again = await house.done((await house.submit()).request.id)
        assert house.model.calls == []
        assert again.result is not None
        assert again.result["coverage"]["reused"] == CLIPS
        other = await house.done((await house.submit(prompt="Something else")).request.id)
        assert len(house.model.calls) == CLIPS
        assert other.result is not None
        assert other.result["coverage"]["reused"] == 0
        overlapping = SamplingOptions(clip_duration_s=10.0, start_s=20.0)
        part = await house.done((await house.submit(sampling=overlapping)).request.id)
        assert part.result is not None
        assert part.result["coverage"]["reused"] == CLIPS - 2, "the same clips of another range are the same clips"

    play(scenario)


def test_a_short_video_is_not_stuck_behind_a_long_one(play: Play) -> None:
    async def scenario(house: House) -> None:
        house.model.held = True
        long = (await house.submit(sampling=SamplingOptions(clip_duration_s=0.5))).request.id
        house.start()
        await until(lambda: len(house.model.calls) == QUICK.in_flight_clips)
        short = (await house.submit(prompt="short")).request.id
        await house.until(short, lambda view: view.progress.state == "running")
        answered = 0
        while not (await house.service.get(ANN, short)).progress.done:
            begun = len(house.model.calls)
            house.model.permits.release()
            answered += 1
            with contextlib.suppress(TimeoutError):  # the last answer lets no other call begin
                async with asyncio.timeout(1):
                    await until(functools.partial(more_calls, house.model, begun))
        # Each second place in flight was the short one's; a few answers pass before its end is told.
        assert answered <= 3 * CLIPS + QUICK.in_flight_clips
        assert not (await house.service.get(ANN, long)).progress.done

    play(scenario)


def test_a_key_names_one_analysis(play: Play) -> None:
    async def scenario(house: House) -> None:
        file = await house.file()
        asked = Asked(file.id, AnalysisOptions(model="sim"), {"for": "me"}, key="../any text\n")
        views = await asyncio.gather(*(house.service.submit(ANN, asked) for _ in range(8)))
        assert len({view.request.id for view in views}) == 1
        with pytest.raises(AnalysisConflict, match="Idempotency-Key"):
            await house.service.submit(ANN, dataclasses.replace(asked, metadata={}))
        assert len(await sizes_below(house.store, "queue")) == 1

    play(scenario)


def test_analyses_are_their_owners_alone(play: Play) -> None:
    async def scenario(house: House) -> None:
        one = (await house.submit()).request.id
        await house.service.get(ANN, one)
        for refused in (
            house.service.get(BOB, one),
            house.service.cancel(BOB, one),
            house.service.retry(BOB, one),
            house.service.delete(BOB, one),
            house.service.clips(BOB, one, after=0, limit=1),
            house.service.get(ANN, "ana_0"),
        ):
            with pytest.raises(NotFound):
                await refused
        assert (await house.service.page(BOB, after=None, limit=10)).views == []
        with pytest.raises(NotFound):
            await house.service.submit(BOB, Asked((await house.file()).id, AnalysisOptions(model="sim"), {}))
        with pytest.raises(UnknownModel):
            await house.service.submit(ANN, Asked((await house.file()).id, AnalysisOptions(model="gpt"), {}))

    play(scenario)


def test_analyses_are_listed_and_deleted(play: Play) -> None:
    async def scenario(house: House) -> None:
        ids = [(await house.submit(prompt=str(n))).request.id for n in range(3)]
        page = await house.service.page(ANN, after=None, limit=2)
        assert ([view.request.id for view in page.views], page.has_more) == (ids[:0:-1], True)
        page = await house.service.page(ANN, after=ids[1], limit=2)
        assert ([view.request.id for view in page.views], page.has_more) == (ids[:1], False)
        with pytest.raises(AnalysisConflict, match="cancel it first"):
            await house.service.delete(ANN, ids[0])
        house.start()
        for one in ids:
            await house.done(one)
        await house.service.delete(ANN, ids[0])
        with pytest.raises(NotFound):
            await house.service.get(ANN, ids[0])
        assert await sizes_below(house.store, f"owners/ann/analyses/{ids[0]}") == {}

    play(scenario)


def test_the_eta_follows_the_pace(play: Play) -> None:
    async def scenario(house: House) -> None:
        one = (await house.submit()).request.id
        assert (await house.service.get(ANN, one)).progress.eta_s(0.0) is None
        house.start()
        view = await house.done(one)
        assert view.progress.eta_s(0.0) == 0.0
        assert json.dumps(view.result)

    play(scenario)


def test_a_summary_on_the_way_reads_a_bounded_number_of_captions_and_names_every_gap() -> None:
    error = ClipError("clip_rejected", "not this one")
    outcomes = [
        ClipOutcome(at, 10.0 * at, 10.0 * at + 10.0, 10, error=error)
        if at == 1001
        else ClipOutcome(at, 10.0 * at, 10.0 * at + 10.0, 10, text=f"clip {at}")
        for at in reversed(range(4096))
    ]
    read: list[int] = []
    whole = summary_of

    def counted(some: list[ClipOutcome]) -> dict[str, Any]:
        read.append(len(some))
        return whole(some)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(record_module, "summary_of", counted)
        summary = record_module._summary_so_far(outcomes)
    assert read == [512]
    assert [gap["start_s"] for gap in summary["not_described"]] == [10010.0]
    starts = [passage["citations"][0]["start_s"] for passage in summary["passages"]]
    assert starts == sorted(starts)
    assert starts[-1] > 30_000.0, "it speaks of the whole video"
