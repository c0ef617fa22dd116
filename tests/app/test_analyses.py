"""`/v1/analyses` over HTTP, with the decoder and the model made up."""

import csv
import dataclasses
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.deployment import ModelStatus
from pipelines.store import open_store
from serve_app.api.app import create_app
from tests.app.fakes import FakeServices
from tests.videos import write_video

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("decoded_in_no_time")]
SIM = ModelStatus(model_info("sim", VisionSettings(engine="simulated")), "ready", 0, loads_on_first_use=False)
CLIPS = 4


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Four seconds."""
    return write_video(tmp_path_factory.mktemp("v") / "v.mp4", frames=100).read_bytes()


@pytest.fixture
def services(tmp_path: Path) -> FakeServices:
    return FakeServices(open_store(str(tmp_path)), SIM)


@pytest.fixture
def http(services: FakeServices) -> Iterator[TestClient]:
    with TestClient(create_app(services), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def file_id(http: TestClient, video: bytes) -> str:
    one: str = http.post("/v1/files", files={"file": ("cats.mp4", video)}).json()["id"]
    return one


def ask(http: TestClient, file: str, **options: Any) -> Response:
    return http.post("/v1/analyses", json={"file_id": file, "clip_duration_s": 1.0} | options)


def accepted(http: TestClient, file_id: str, **options: Any) -> str:
    answer = ask(http, file_id, **options)
    assert answer.status_code == 202, answer.text
    one: str = answer.json()["id"]
    return one


def until_done(http: TestClient, one: str, number: int = 0) -> dict[str, Any]:
    give_up_s = time.monotonic() + 20
    while True:
        analysis: dict[str, Any] = http.get(f"/v1/analyses/{one}").json()
        if analysis["finished_at"] is not None and analysis["round"] == number:
            return analysis
        assert time.monotonic() < give_up_s, analysis
        time.sleep(0.02)


def code(answer: Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_an_analysis_answers_at_once_and_ends_with_its_result(http: TestClient, file_id: str) -> None:
    answer = ask(http, file_id, prompt="What?", metadata={"mine": [1, None]})
    analysis = answer.json()
    assert (answer.status_code, analysis["state"]) == (202, "queued")
    assert answer.headers["Location"] == analysis["links"]["self"] == f"/v1/analyses/{analysis['id']}"
    assert (analysis["model"], analysis["metadata"], analysis["filename"]) == ("sim", {"mine": [1, None]}, "cats.mp4")
    assert (analysis["options"]["prompt"], analysis["options"]["clip_duration_s"]) == ("What?", 1.0)
    done = until_done(http, analysis["id"])
    assert done["state"] == "completed"
    assert done["progress"] == {
        "clips_done": CLIPS, "clips_failed": 0, "clips_total": CLIPS, "fraction": 1.0, "eta_s": 0.0,
    }  # fmt: skip
    assert done["coverage"]["described_s"] == 4.0
    assert done["created_at"] <= done["started_at"] <= done["first_caption_at"] <= done["finished_at"]
    result = http.get(done["links"]["result"]).json()
    assert [clip["text"] for clip in result["clips"]] == ["0", "1", "2", "3"]
    listed = http.get("/v1/analyses").json()
    assert [one["id"] for one in listed["data"]] == [done["id"]]


def test_a_result_has_a_summary_that_quotes_unless_none_is_wanted(http: TestClient, file_id: str) -> None:
    here = f"/v1/analyses/{until_done(http, accepted(http, file_id))['id']}/result"
    passages = http.get(here).json()["summary"]["passages"]
    assert [passage["text"] for passage in passages] == ["0", "1", "2", "3"]
    assert passages[2]["citations"] == [{"clip": 2, "start_s": 2.0, "end_s": 3.0}]
    assert "- 2 [00:02 – 00:03]" in http.get(here, params={"format": "md"}).text
    analysis = until_done(http, accepted(http, file_id, summary=False))
    assert (analysis["options"]["summary"], analysis["options"]["allow_cloud"]) == (False, False)
    assert http.get(analysis["links"]["result"]).json()["summary"] is None


@pytest.mark.parametrize(
    ("options", "status", "param"),
    [
        ({"fps": 1, "frames_per_clip": 2}, 422, None),
        ({"start_s": 9.0}, 422, None),
        ({"end_s": 1.0, "start_s": 2.0}, 422, None),
        ({"clip_duration_s": 0}, 422, "clip_duration_s"),
        ({"prompt": ""}, 422, "prompt"),
        ({"promt": "misspelt"}, 422, "promt"),
        ({"model": "gpt"}, 404, "model"),
        ({"file_id": "file_" + "0" * 24}, 404, "file_id"),
        ({"metadata": {"x": "y" * 20_000}}, 422, None),
    ],
)
def test_what_makes_no_sense_is_refused_before_it_is_accepted(
    http: TestClient, file_id: str, options: dict[str, Any], status: int, param: str | None
) -> None:
    answer = ask(http, file_id, **options)
    assert answer.status_code == status
    if param:
        assert answer.json()["error"]["param"] == param
    assert http.get("/v1/analyses").json()["data"] == []


def test_an_idempotency_key_names_one_analysis(http: TestClient, file_id: str) -> None:
    body = {"file_id": file_id, "prompt": "What?"}
    key = {"Idempotency-Key": "my key"}
    first, again = (http.post("/v1/analyses", json=body, headers=key).json()["id"] for _ in range(2))
    assert first == again
    other = http.post("/v1/analyses", json=body | {"prompt": "Why?"}, headers=key)
    assert code(other) == (409, "analysis_conflict")


def test_clips_are_listed_while_they_come(http: TestClient, file_id: str, services: FakeServices) -> None:
    services.model.bad = {2.0}
    one = accepted(http, file_id)
    until_done(http, one)
    first = http.get(f"/v1/analyses/{one}/clips?limit=3").json()
    assert (len(first["data"]), first["has_more"]) == (3, True)
    rest = http.get(f"/v1/analyses/{one}/clips?after={first['last_id']}").json()
    assert (len(rest["data"]), rest["has_more"]) == (1, False)
    by_index = {clip["index"]: clip for clip in first["data"] + rest["data"]}
    assert sorted(by_index) == [0, 1, 2, 3]
    assert by_index[2]["error"]["code"] == "clip_rejected"
    assert by_index[3]["text"] == "3"


def test_a_result_comes_in_the_formats_people_use(http: TestClient, file_id: str, services: FakeServices) -> None:
    services.model.held = True
    one = accepted(http, file_id)
    early = http.get(f"/v1/analyses/{one}/result")
    assert code(early) == (409, "analysis_conflict")
    services.model.held = False
    services.model.permits.release()
    for _ in range(CLIPS):
        services.model.permits.release()
    until_done(http, one)
    formats = {name: http.get(f"/v1/analyses/{one}/result?format={name}") for name in ("vtt", "srt", "csv", "md")}
    assert formats["vtt"].text.startswith("WEBVTT")
    assert formats["vtt"].headers["Content-Type"].startswith("text/vtt")
    assert "00:00:01,000 --> 00:00:02,000" in formats["srt"].text
    assert [row["text"] for row in csv.DictReader(io.StringIO(formats["csv"].text))] == ["0", "1", "2", "3"]
    assert "# cats.mp4" in formats["md"].text
    assert http.get(f"/v1/analyses/{one}/result?format=doc").status_code == 422


def test_failed_clips_can_be_done_again(http: TestClient, file_id: str, services: FakeServices) -> None:
    services.model.bad = {2.0}
    one = accepted(http, file_id)
    assert until_done(http, one)["state"] == "partial"
    services.model.bad = set()
    again = http.post(f"/v1/analyses/{one}/retry")
    assert (again.status_code, again.json()["round"]) == (202, 1)
    assert until_done(http, one, 1)["state"] == "completed"
    assert code(http.post(f"/v1/analyses/{one}/retry")) == (409, "analysis_conflict")


def test_a_cancelled_analysis_says_what_it_did_not_see(http: TestClient, file_id: str, services: FakeServices) -> None:
    services.model.held = True
    one = accepted(http, file_id)
    assert code(http.delete(f"/v1/analyses/{one}")) == (409, "analysis_conflict")
    assert http.post(f"/v1/analyses/{one}/cancel").status_code == 202
    done = until_done(http, one)
    assert done["state"] == "cancelled"
    assert done["coverage"]["clips_failed_by_code"] == {"cancelled": CLIPS}
    assert http.post(f"/v1/analyses/{one}/cancel").json()["state"] == "cancelled"
    assert http.delete(f"/v1/analyses/{one}").json() == {"id": one, "object": "analysis", "deleted": True}
    assert http.get(f"/v1/analyses/{one}").status_code == 404


def test_owners_see_only_their_analyses(http: TestClient, file_id: str) -> None:
    one = accepted(http, file_id)
    bob = {"Authorization": "Bearer bob admin"}
    for path in ("", "/clips", "/result", "/events"):
        assert code(http.get(f"/v1/analyses/{one}{path}", headers=bob)) == (404, "not_found")
    for verb in ("cancel", "retry"):
        assert code(http.post(f"/v1/analyses/{one}/{verb}", headers=bob)) == (404, "not_found")
    assert code(http.delete(f"/v1/analyses/{one}", headers=bob)) == (404, "not_found")
    assert http.get("/v1/analyses", headers=bob).json()["data"] == []
    refused = http.post("/v1/analyses", json={"file_id": file_id}, headers=bob)
    assert code(refused) == (404, "not_found")


def test_a_model_that_changed_is_not_mixed_in(http: TestClient, file_id: str, services: FakeServices) -> None:
    info = dataclasses.replace(SIM.info, revision="of yesterday")
    services.analyses._submissions._models = {"sim": info}
    done = until_done(http, accepted(http, file_id))
    assert done["state"] == "failed"
    assert done["coverage"]["clips_failed_by_code"] == {"model_load_failed": CLIPS}
