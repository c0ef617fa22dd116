import asyncio
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.events import ClipEvent, EventsError
from pipelines.outcome import ClipError, ClipOutcome
from pipelines.results import build_result, coverage_of, status_of, write_result
from pipelines.source import Source
from pipelines.store import open_store
from pipelines.video import VideoInfo

SOURCE = Source("/v/a.mp4", "a.mp4", "ab" * 32, 99, VideoInfo(30.0, 640, 360, 25.0, 0, "h264", True, 0.5), "")


def described(index: int, start_s: float, end_s: float, text: str = "A cat.") -> ClipOutcome:
    return ClipOutcome(
        index, start_s, end_s, frames_planned=3, pts_s=(start_s, start_s + 1), text=text, attempts=1, served_by="local"
    )


def failed(index: int, start_s: float, end_s: float, code: str = "poison_clip") -> ClipOutcome:
    return ClipOutcome(index, start_s, end_s, frames_planned=3, error=ClipError(code, "it died"))


def result(*outcomes: ClipOutcome, reused: int = 0, event_kinds: Sequence[str] = ()) -> dict[str, Any]:
    model = {"name": "demo", "revision": "r1", "notice": "only drawn scenes"}
    return build_result(
        analysis_id="ana_1",
        model=model,
        source=SOURCE,
        outcomes=outcomes,
        reused=reused,
        timings={"total_s": 1.0},
        event_kinds=event_kinds,
    )


def with_events(outcome: ClipOutcome, *events: ClipEvent) -> ClipOutcome:
    return dataclasses.replace(outcome, events=events, events_tokens=5)


def with_invalid_events(outcome: ClipOutcome, message: str = "expected a list, got none") -> ClipOutcome:
    return dataclasses.replace(outcome, events_error=EventsError("invalid_events", message))


def test_the_status_says_whether_all_some_or_none_failed() -> None:
    assert status_of([described(0, 0, 10)]) == "completed"
    assert status_of([described(0, 0, 10), failed(1, 10, 20)]) == "partial"
    assert status_of([failed(0, 0, 10)]) == "failed"


def test_coverage_accounts_for_every_second_and_frame() -> None:
    coverage = coverage_of([described(0, 0, 10), failed(1, 10, 20), failed(2, 20, 30, "clip_undecodable")], reused=1)
    assert coverage == {
        "planned_s": 30.0,
        "described_s": 10.0,
        "failed_s": 20.0,
        "clips_planned": 3,
        "clips_described": 1,
        "frames_planned": 9,
        "frames_decoded": 2,
        "frames_described": 2,
        "clips_failed_by_code": {"clip_undecodable": 1, "poison_clip": 1},
        "clips_by_server": {"local": 1},
        "reused": 1,
    }


def test_overlapping_clips_count_their_shared_seconds_once() -> None:
    coverage = coverage_of([described(0, 0, 10), failed(1, 5, 15), described(2, 10, 20)], reused=0)
    assert (coverage["planned_s"], coverage["described_s"], coverage["failed_s"]) == (20.0, 20.0, 0.0)


def test_a_clip_has_a_text_or_an_error_and_says_no_more() -> None:
    clips = result(described(0, 0, 10), failed(1, 10, 20))["clips"]
    assert "error" not in clips[0]
    assert "text" not in clips[1]
    assert clips[1]["error"] == {"code": "poison_clip", "message": "it died", "retryable": False}
    with pytest.raises(ValueError, match="a text or an error"):
        ClipOutcome(0, 0.0, 1.0, 1)


def test_events_are_one_timeline_with_their_clips_and_have_their_account() -> None:
    made = result(
        with_events(described(0, 0, 10), ClipEvent("fall", "a cat", 2.0), ClipEvent("rise", None, 9.0)),
        with_events(described(1, 5, 15), ClipEvent("fall", None, 7.5)),
        with_invalid_events(described(2, 10, 20)),
        with_events(described(3, 20, 25)),
        failed(4, 25, 30),
        event_kinds=["fall", "rise"],
    )
    assert made["event_kinds"] == ["fall", "rise"]
    assert made["events"] == [
        {"event": "fall", "object": "a cat", "time_s": 2.0, "clip": 0},
        {"event": "fall", "object": None, "time_s": 7.5, "clip": 1},
        {"event": "rise", "object": None, "time_s": 9.0, "clip": 0},
    ]
    assert (made["coverage"]["clips_events_valid"], made["coverage"]["clips_events_invalid"]) == (3, 1)
    assert made["clips"][2]["events_error"]["code"] == "invalid_events"
    unasked = result(described(0, 0, 10))
    assert (unasked["event_kinds"], unasked["events"]) == ([], [])
    assert "clips_events_valid" not in unasked["coverage"]
    assert "events" not in unasked["clips"][0]


def test_events_and_an_error_of_theirs_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="events or an error of theirs"):
        with_invalid_events(with_events(described(0, 0, 10)))


def test_the_files_agree_with_each_other(tmp_path: Path) -> None:
    made = result(
        with_events(described(0, 0, 10, "Ein Ü | <b>"), ClipEvent("fall", None, 2.5)),
        failed(1, 10, 20),
        with_invalid_events(described(2, 20, 30, "A dog.")),
        event_kinds=["fall"],
    )
    asyncio.run(write_result(open_store(str(tmp_path)), "v/", made))
    folder = tmp_path / "v"
    assert json.loads((folder / "result.json").read_text()) == made
    lines = [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]
    assert lines == made["clips"]
    rows = pq.read_table(folder / "clips.parquet").to_pylist()
    assert [row["text"] for row in rows] == ["Ein Ü | <b>", None, "A dog."]
    assert [row["error_code"] for row in rows] == [None, "poison_clip", None]
    assert [row["events"] for row in rows] == [[{"event": "fall", "object": None, "time_s": 2.5}], None, None]
    assert [row["events_error_message"] for row in rows] == [None, None, "expected a list, got none"]
    assert [row["events_tokens"] for row in rows] == [5, None, 0]
    assert rows[0]["pts_s"] == [0.0, 1.0]
    assert sorted(path.name for path in folder.iterdir()) == [
        "clips.jsonl",
        "clips.parquet",
        "result.json",
        "timeline.md",
    ]
