"""`/v1/analyze` and questions for events over HTTP, with the decoder and the model made up."""

import asyncio
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from pipelines.store import sizes_below
from tests.app.fakes import MAX_PART_BYTES, FakeServices
from tests.app.test_analyses import CLIPS, accepted, ask, code, file_id, http, services, until_done, video
from tests.app.test_events import sse

__all__ = ["file_id", "http", "services", "video"]
pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("decoded_in_no_time")]


def analyze(http: TestClient, content: bytes, key: str | None = None, **fields: str | list[str]) -> Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    files = {"file": ("../cats.mp4", content)}
    return http.post("/v1/analyze", files=files, data={"clip_duration_s": "1"} | fields, headers=headers)


def left(services: FakeServices) -> dict[str, int]:
    return asyncio.run(sizes_below(services._store, "owners"))


def test_a_video_and_its_options_in_one_request(http: TestClient, services: FakeServices, video: bytes) -> None:
    services.model.events = '[{"event": "a door opens", "time_s": 0.5}]'
    answer = analyze(
        http, video, prompt="What?", fps="2", events=["a cat jumps", "a door opens"], metadata='{"mine": [1, null]}'
    )
    analysis = answer.json()
    assert (answer.status_code, analysis["state"]) == (202, "queued"), answer.text
    assert answer.headers["Location"] == f"/v1/analyses/{analysis['id']}"
    assert (analysis["filename"], analysis["metadata"]) == ("cats.mp4", {"mine": [1, None]})
    options = analysis["options"]
    assert (options["prompt"], options["fps"], options["events"]) == ("What?", 2.0, ["a cat jumps", "a door opens"])
    assert until_done(http, analysis["id"])["state"] == "completed"
    assert http.get(f"/v1/files/{analysis['file_id']}/content").content == video


def test_the_same_key_names_one_analysis_and_the_same_bytes_one_file(http: TestClient, video: bytes) -> None:
    first, again, other = (analyze(http, video, key).json() for key in ("key", "key", None))
    assert first["id"] == again["id"] != other["id"]
    assert first["file_id"] == other["file_id"]
    assert code(analyze(http, video, "key", prompt="Why?")) == (409, "analysis_conflict")


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"fps": "quick"}, 422, "fps"),
        ({"fps": ""}, 422, "fps"),
        ({"fps": ["1", "2"]}, 422, "fps"),
        ({"fps": "1", "frames_per_clip": "2"}, 422, None),
        ({"promt": "misspelt"}, 422, "promt"),
        ({"file_id": "file_x"}, 422, "file_id"),
        ({"url": "http://127.0.0.1/"}, 422, "url"),
        ({"events": ["x"] * 17}, 422, "events"),
        ({"events": ["x", "x"]}, 422, None),
        ({"metadata": "{"}, 422, "metadata"),
        ({"metadata": "[1]"}, 422, "metadata"),
        ({"metadata": '{"a": NaN}'}, 422, "metadata"),
        ({"metadata": "[" * 10_000}, 422, "metadata"),
        ({"model": "gpt"}, 404, "model"),
    ],
)
def test_options_that_are_wrong_by_themselves_leave_nothing_behind(
    http: TestClient, services: FakeServices, video: bytes, fields: dict[str, Any], status: int, param: str | None
) -> None:
    answer = analyze(http, video, **fields)
    assert answer.status_code == status, answer.text
    if param:
        assert (answer.json()["error"]["param"] or "").split(".")[0] == param
    assert left(services) == {}


def test_a_video_that_the_options_do_not_fit_stays_as_a_file(http: TestClient, video: bytes) -> None:
    assert code(analyze(http, video, start_s="9")) == (422, "invalid_option")
    [file] = http.get("/v1/files").json()["data"]
    assert http.get("/v1/analyses").json()["data"] == []
    assert analyze(http, video).json()["file_id"] == file["id"]


def test_what_is_no_form_with_a_small_enough_video_is_refused(http: TestClient, services: FakeServices) -> None:
    assert code(http.post("/v1/analyze", json={"fps": 1})) == (400, "invalid_request")
    assert code(http.post("/v1/analyze", files={"film": b"x"})) == (422, "invalid_option")
    assert code(http.post("/v1/analyze", data={"file": "x"}, files={"x": b""})) == (422, "invalid_option")
    assert code(analyze(http, b"no video")) == (415, "unreadable_video")
    assert code(analyze(http, b"x" * (MAX_PART_BYTES + 100_000))) == (413, "too_large")
    assert left(services) == {}


def test_events_are_asked_for_listed_and_accounted_for(http: TestClient, services: FakeServices, file_id: str) -> None:
    services.model.events = json.dumps([{"event": "fall", "object": "a cup", "time_s": 0.25}])
    one = accepted(http, file_id, events=["fall", "rise"])
    done = until_done(http, one)
    assert (done["coverage"]["clips_events_valid"], done["coverage"]["clips_events_invalid"]) == (CLIPS, 0)
    result = http.get(f"/v1/analyses/{one}/result").json()
    assert result["events"] == [
        {"event": "fall", "object": "a cup", "time_s": index + 0.25, "clip": index} for index in range(CLIPS)
    ]
    assert "| 00:00 | fall | a cup |" in http.get(f"/v1/analyses/{one}/result?format=md").text
    clips = http.get(f"/v1/analyses/{one}/clips").json()["data"]
    assert all(clip["events"][0]["event"] == "fall" for clip in clips)


def test_an_answer_that_is_no_list_of_events_is_a_warning_to_who_watches(
    http: TestClient, services: FakeServices, file_id: str
) -> None:
    services.model.events = '[{"event": "jump", "time_s": 0}]'
    one = accepted(http, file_id, events=["fall"])
    events = sse(http.get(f"/v1/analyses/{one}/events").text)
    assert [kind for _, kind, _ in events] == ["progress", *["clip", "warning"] * CLIPS, "done"]
    assert [number for number, _, _ in events] == list(range(1, 2 * CLIPS + 3))
    warning = events[2][2]
    assert (warning["code"], warning["index"]) == ("invalid_events", events[1][2]["index"])
    assert warning["message"] == "events[0].event: expected one of 'fall', got 'jump'"
    assert events[-1][2]["coverage"]["clips_events_invalid"] == CLIPS
    assert http.get(f"/v1/analyses/{one}").json()["state"] == "completed"
    assert len(http.get(f"/v1/analyses/{one}/clips").json()["data"]) == CLIPS, "warnings are no clips"


@pytest.mark.parametrize("events", [["x"] * 17, ["a", "a"], [""], ["a\nb"], ["x" * 201], [3], "fall", {"a": 1}, None])
def test_kinds_that_cannot_be_asked_for_are_refused(http: TestClient, file_id: str, events: Any) -> None:
    answer = ask(http, file_id, events=events)
    assert code(answer) == (422, "invalid_option")
    assert answer.json()["error"]["param"].startswith("events")
    assert ask(http, file_id, events=[]).status_code == 202, "nothing is asked for"
