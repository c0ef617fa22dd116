"""Every route of the HTTP app over fake services: no Ray, milliseconds."""

import dataclasses

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from deployments.errors import Overloaded
from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.deployment import ModelState, ModelStatus
from serve_app.api import create_app

DEMO = ModelStatus(model_info("demo", VisionSettings()), "ready", 0, loads_on_first_use=False)


class FakeServices:
    def __init__(self, *statuses: ModelStatus) -> None:
        self.statuses = list(statuses)
        self.error: Exception | None = None

    async def model_statuses(self) -> list[ModelStatus]:
        if self.error:
            raise self.error
        return self.statuses


def client(*statuses: ModelStatus, error: Exception | None = None) -> TestClient:
    services = FakeServices(*(statuses or (DEMO,)))
    services.error = error
    return TestClient(create_app(services), raise_server_exceptions=False)


def test_livez_asks_nobody() -> None:
    answer = client(error=RuntimeError("down")).get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("state", "on_first_use", "code"),
    [("ready", False, 200), ("cold", True, 200), ("cold", False, 503), ("loading", True, 503), ("failed", True, 503)],
)
def test_readyz_is_503_until_every_model_can_serve(state: ModelState, on_first_use: bool, code: int) -> None:
    status = dataclasses.replace(DEMO, state=state, loads_on_first_use=on_first_use)
    answer = client(DEMO, status).get("/readyz")
    assert answer.status_code == code
    assert answer.json()["waiting_for"] == ([] if code == 200 else ["demo"])
    assert ("Retry-After" in answer.headers) == (code == 503)


def test_models_are_listed_as_openai_does_with_their_state_and_notice() -> None:
    failed = dataclasses.replace(DEMO, state="failed", error="no weights")
    body = client(DEMO, failed).get("/v1/models").json()
    assert body["object"] == "list"
    assert [(model["id"], model["object"], model["state"]) for model in body["data"]] == [
        ("demo", "model", "ready"),
        ("demo", "model", "failed"),
    ]
    assert "only drawn scenes" in body["data"][0]["notice"]
    assert body["data"][1]["error"] == "no weights"


def test_a_request_id_is_echoed_when_it_is_one_and_made_up_when_it_is_not() -> None:
    http = client()
    assert http.get("/livez", headers={"X-Request-ID": "my-id.1"}).headers["X-Request-ID"] == "my-id.1"
    made = http.get("/livez", headers={"X-Request-ID": "no good\t"}).headers["X-Request-ID"]
    assert len(made) == 32


def test_errors_have_one_form_and_the_request_id() -> None:
    answer = client().get("/nowhere", headers={"X-Request-ID": "r1"})
    assert answer.status_code == 404
    assert answer.json() == {
        "error": {"message": "Not Found", "type": "invalid_request_error", "param": None, "code": "not_found"},
        "request_id": "r1",
    }
    assert client().post("/livez").json()["error"]["code"] == "method_not_allowed"


def test_an_app_error_keeps_its_status_and_code() -> None:
    answer = client(error=Overloaded("the queue is full")).get("/v1/models")
    assert answer.status_code == 503
    assert answer.json()["error"] == {
        "message": "the queue is full",
        "type": "server_error",
        "param": None,
        "code": "overloaded",
    }


def test_a_bug_tells_the_client_nothing_of_the_inside() -> None:
    answer = client(error=RuntimeError("/secret/path")).get("/v1/models")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text


def test_openapi_names_every_route() -> None:
    app: FastAPI = create_app(FakeServices(DEMO))
    assert set(app.openapi()["paths"]) == {"/livez", "/readyz", "/v1/models"}
