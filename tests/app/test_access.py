"""Who may do what, for every operation of the OpenAPI document: one that this file does not know fails."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.deployment import ModelStatus
from pipelines import drive
from pipelines.store import open_store
from serve_app.api.app import create_app
from tests.app.conftest import black_frames
from tests.app.fakes import FakeServices
from tests.app.test_document import OPERATIONS
from tests.videos import write_video

pytestmark = pytest.mark.timeout(60)
SIM = ModelStatus(model_info("sim", VisionSettings(engine="simulated")), "ready", 0, loads_on_first_use=False)
ROLES = ("viewer", "analyst", "admin")
OPEN = {"GET /livez", "GET /readyz"}
SHARED = {"GET /v1/models", "GET /v1/models/{model}", "GET /v1/stats", "GET /metrics"}
"""What is of the whole service and names nobody's objects."""
OWN = {"GET /v1/files", "GET /v1/analyses", "POST /v1/files", "POST /v1/uploads", "POST /v1/analyze"}
"""What lists or makes one's own objects, without naming any."""
OBJECTS = sorted(set(OPERATIONS) - OPEN - SHARED - OWN)
"""What names an object: another owner's is answered 404, as one that does not exist."""
JSON: dict[str, dict[str, Any]] = {
    "POST /v1/uploads": {"filename": "v.mp4", "bytes": 9},
    "POST /v1/uploads/{upload_id}/complete": {"part_ids": ["part_x"]},
}


@pytest.fixture(scope="module")
def http() -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drive, "decoded_clips", black_frames)
        with TestClient(create_app(FakeServices(open_store("memory:///"), SIM))) as client:
            yield client


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("v") / "v.mp4", frames=10).read_bytes()


@pytest.fixture(scope="module")
def anns(http: TestClient, film: bytes) -> dict[str, str]:
    """Ann's objects by the name of the parameter that names them."""
    return objects_of("ann", http, film)


def objects_of(owner: str, http: TestClient, film: bytes) -> dict[str, str]:
    headers = bearer(owner)
    file_id = http.post("/v1/files", files={"file": film}, headers=headers).json()["id"]
    upload = http.post("/v1/uploads", json={"filename": "v.mp4", "bytes": 9}, headers=headers).json()["id"]
    analysis = http.post("/v1/analyses", json={"file_id": file_id}, headers=headers).json()["id"]
    assert "event: done" in http.get(f"/v1/analyses/{analysis}/events", headers=headers).text
    return {"file_id": file_id, "upload_id": upload, "analysis_id": analysis}


def bearer(owner: str, role: str = "analyst") -> dict[str, str]:
    return {"Authorization": f"Bearer {owner} {role}"}


def call(http: TestClient, name: str, ids: dict[str, str], headers: dict[str, str]) -> Response:
    method, path = name.split()
    json = JSON.get(name)
    if name == "POST /v1/analyses":
        json = {"file_id": ids["file_id"]}
    elif name == "POST /v1/chat/completions":
        json = {"analysis_id": ids["analysis_id"], "messages": [{"role": "user", "content": "What is there?"}]}
    return http.request(method, path.format(**ids, model="sim"), json=json, headers=headers)


def test_every_operation_is_in_the_matrix() -> None:
    assert set(OPERATIONS) >= (OPEN | SHARED | OWN)
    in_bodies = {"POST /v1/analyses", "POST /v1/chat/completions"}
    named = {name for name in OPERATIONS if "_id}" in name} | in_bodies
    assert set(OBJECTS) == named, "a new operation must say here whose objects it touches"


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("role", ROLES)
def test_another_owners_object_is_not_found(http: TestClient, anns: dict[str, str], name: str, role: str) -> None:
    enough = ROLES.index(role) >= ROLES.index(OPERATIONS[name]["x-role"])
    answer = call(http, name, anns, bearer("bob", role))
    assert answer.status_code == (404 if enough else 403), answer.text
    absent = call(http, name, {key: value[:-4] + "0000" for key, value in anns.items()}, bearer("bob", role))
    assert absent.json()["error"]["code"] == answer.json()["error"]["code"], "nobody learns that it exists"


def test_ones_own_objects_are_found(http: TestClient, film: bytes) -> None:
    cats = objects_of("cat", http, film)
    for name in sorted(OBJECTS, key=lambda name: name.startswith("DELETE")):
        assert call(http, name, cats, bearer("cat")).status_code not in (401, 403, 404), name


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
