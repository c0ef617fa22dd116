"""A client's text is refused at the door or can be read back for ever: depth, half characters, numbers without JSON."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.deployment import ModelStatus
from pipelines.store import open_store
from serve_app.api.app import create_app
from tests.app.fakes import FakeServices
from tests.videos import write_video

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("decoded_in_no_time")]
SIM = ModelStatus(model_info("sim", VisionSettings(engine="simulated")), "ready", 0, loads_on_first_use=False)
HALF = "\ud83d"


@pytest.fixture
def http(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(
        create_app(FakeServices(open_store(str(tmp_path / "s")), SIM)), raise_server_exceptions=False
    ) as http:
        yield http


@pytest.fixture
def film(tmp_path: Path) -> bytes:
    return write_video(tmp_path / "v.mp4", frames=25).read_bytes()


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = {"k": value} if level % 2 else [value]
    return value


REFUSED = [
    ("metadata", {"k": nested(32)}),
    ("metadata", {"k": nested(900)}),
    ("metadata", {"k": HALF}),
    ("metadata", {HALF: 1}),
    ("metadata", {"k": ["ü" * 8200]}),
    ("metadata", {"k": float("nan")}),
    ("metadata", {"k": float("inf")}),
    ("prompt", HALF),
    ("events", ["a door opens", HALF]),
    ("model", HALF),
    ("file_id", HALF),
    (HALF, 1),
]


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=str)
def test_what_could_not_be_read_back_is_refused(http: TestClient, film: bytes, name: str, value: Any) -> None:
    file_id = http.post("/v1/files", files={"file": film}).json()["id"]
    body = json.dumps({"file_id": file_id, name: value})
    answer = http.post("/v1/analyses", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    if name != HALF and value != {"k": nested(900)}:
        assert answer.json()["error"]["param"].split(".")[0] == name
    assert http.get("/v1/analyses").json()["data"] == []


@pytest.mark.parametrize("value", [{"k": nested(31)}, {"k": "🎬", "ü": [None, True, 1.5, -7]}], ids=str)
def test_what_is_accepted_is_read_back(http: TestClient, film: bytes, value: Any) -> None:
    file_id = http.post("/v1/files", files={"file": film}).json()["id"]
    accepted = http.post("/v1/analyses", json={"file_id": file_id, "metadata": value})
    assert accepted.status_code == 202, accepted.text
    assert http.get(accepted.headers["Location"]).json()["metadata"] == value


@pytest.mark.parametrize("value", [{"k": nested(32)}, {"k": HALF}, {"k": nested(900)}], ids=str)
def test_a_form_is_refused_like_a_body(http: TestClient, film: bytes, value: Any) -> None:
    answer = http.post("/v1/analyze", files={"file": film}, data={"metadata": json.dumps(value)})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["param"] == "metadata"


@pytest.mark.parametrize("name", ["filename", "purpose"])
def test_an_upload_s_text_is_refused_or_can_be_read_back(http: TestClient, name: str) -> None:
    body = json.dumps({"filename": "v", "bytes": 9, name: HALF})
    answer = http.post("/v1/uploads", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == name


def test_any_idempotency_key_is_taken(http: TestClient, film: bytes) -> None:
    file_id = http.post("/v1/files", files={"file": film}).json()["id"]
    headers = {b"Idempotency-Key": b"\xff\xfe key"}
    answers = [http.post("/v1/analyses", json={"file_id": file_id}, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json()["id"] == answers[1].json()["id"]
