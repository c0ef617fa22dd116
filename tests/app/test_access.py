"""Who may do what, for every operation of the OpenAPI document: one that this file does not know fails."""

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
from tests.app.test_document import OPERATIONS
from tests.videos import write_video

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("decoded_in_no_time")]
SIM = ModelStatus(model_info("sim", VisionSettings(engine="simulated")), "ready", 0, loads_on_first_use=False)
ROLES = ("viewer", "analyst", "admin")
OPEN = {"GET /livez", "GET /readyz"}
SHARED = {"GET /v1/models", "GET /v1/models/{model}", "GET /v1/stats", "GET /metrics"}
"""What is of the whole service and names nobody's objects."""
OWN = {"GET /v1/files", "GET /v1/analyses", "POST /v1/files", "POST /v1/uploads", "POST /v1/analyze"}
"""What lists or makes one's own objects, without naming any."""
OBJECTS = sorted(set(OPERATIONS) - OPEN - SHARED - OWN)
"""What names an object: another owner's is answered 404, as one that does not exist."""
JSON = {
    "POST /v1/uploads": {"filename": "v.mp4", "bytes": 9},
    "POST /v1/uploads/{upload_id}/complete": {"part_ids": ["part_x"]},
}


@pytest.fixture
def http(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(FakeServices(open_store(str(tmp_path / "s")), SIM))) as client:
        yield client


@pytest.fixture
def anns(http: TestClient, tmp_path: Path) -> dict[str, str]:
    """Ann's objects by the name of the parameter that names them."""
    content = write_video(tmp_path / "v.mp4", frames=10).read_bytes()
    file_id = http.post("/v1/files", files={"file": content}, headers=bearer("ann")).json()["id"]
    upload = http.post("/v1/uploads", json={"filename": "v.mp4", "bytes": 9}, headers=bearer("ann")).json()["id"]
    analysis = http.post("/v1/analyses", json={"file_id": file_id}, headers=bearer("ann")).json()["id"]
    with http.stream("GET", f"/v1/analyses/{analysis}/events", headers=bearer("ann")) as events:
        events.read()
    return {"file_id": file_id, "upload_id": upload, "analysis_id": analysis}


def bearer(owner: str, role: str = "analyst") -> dict[str, str]:
    return {"Authorization": f"Bearer {owner} {role}"}


def call(http: TestClient, name: str, ids: dict[str, str], headers: dict[str, str]) -> Response:
    method, path = name.split()
    json: dict[str, Any] | None = {"file_id": ids["file_id"]} if name == "POST /v1/analyses" else JSON.get(name)
    return http.request(method, path.format(**ids, model="sim"), json=json, headers=headers)


def test_every_operation_is_in_the_matrix() -> None:
    assert (OPEN | SHARED | OWN) <= set(OPERATIONS)
    named = {name for name in OPERATIONS if "_id}" in name} | {"POST /v1/analyses"}
    assert set(OBJECTS) == named, "a new operation must say here whose objects it touches"


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("role", ROLES)
def test_another_owners_object_is_not_found(http: TestClient, anns: dict[str, str], name: str, role: str) -> None:
    enough = ROLES.index(role) >= ROLES.index(OPERATIONS[name]["x-role"])
    answer = call(http, name, anns, bearer("bob", role))
    assert answer.status_code == (404 if enough else 403), answer.text
    absent = call(http, name, {key: value[:-4] + "0000" for key, value in anns.items()}, bearer("bob", role))
    assert absent.json()["error"]["code"] == answer.json()["error"]["code"], "nobody learns that it exists"


@pytest.mark.parametrize("name", OBJECTS)
def test_ones_own_object_is_found(http: TestClient, anns: dict[str, str], name: str) -> None:
    assert call(http, name, anns, bearer("ann")).status_code not in (401, 403, 404)


@pytest.mark.parametrize("name", sorted(SHARED | OWN))
@pytest.mark.parametrize("role", ROLES)
def test_a_role_that_is_not_enough_is_refused(http: TestClient, anns: dict[str, str], name: str, role: str) -> None:
    enough = ROLES.index(role) >= ROLES.index(OPERATIONS[name]["x-role"])
    answer = call(http, name, anns, bearer("bob", role))
    assert (answer.status_code == 403) == (not enough)
    if name in OWN and name.startswith("GET"):
        assert answer.json()["data"] == []


def test_another_owners_analysis_cannot_be_watched_by_websocket(http: TestClient, anns: dict[str, str]) -> None:
    here = f"/v1/analyses/{anns['analysis_id']}/ws"
    with http.websocket_connect(here, headers=bearer("bob")) as socket:
        assert socket.receive()["code"] == 4404
