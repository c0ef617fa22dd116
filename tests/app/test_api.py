"""Every route of the HTTP app over fake services: no Ray, milliseconds."""

import dataclasses

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from deployments.errors import Overloaded
from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.deployment import ModelState, ModelStatus
from pipelines.store import open_store
from serve_app.api.access import Needs
from serve_app.api.app import ROUTERS, create_app
from serve_app.principal import Role
from tests.app.fakes import FakeServices

DEMO = ModelStatus(model_info("demo", VisionSettings()), "ready", 0, loads_on_first_use=False)


def client(*statuses: ModelStatus, error: Exception | None = None) -> TestClient:
    services = FakeServices(open_store("memory:///"), *(statuses or (DEMO,)))
    services.error = error
    return TestClient(create_app(services), raise_server_exceptions=False)


def test_livez_asks_nobody() -> None:
    answer = client(error=RuntimeError("down")).get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("state", "on_first_use", "code"),
    [
        ("ready", False, 200),
        ("cold", True, 200),
        ("cold", False, 503),
        ("loading", True, 200),  # it was idle, and a clip that waits brings it back
        ("loading", False, 503),
        ("failed", True, 503),
    ],
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
        ("extractive", "model", "ready"),
    ]
    assert "only drawn scenes" in body["data"][0]["notice"]
    assert body["data"][1]["error"] == "no weights"


def test_how_far_a_load_is_and_what_auto_chose_are_shown() -> None:
    info = dataclasses.replace(DEMO.info, choice="the largest that fits")
    loading = dataclasses.replace(DEMO, info=info, state="loading", load_progress=0.25)
    body = client(loading).get("/v1/models/demo").json()
    assert (body["load_progress"], body["choice"]) == (0.25, "the largest that fits")
    assert client().get("/v1/models/demo").json()["load_progress"] is None


def test_one_model_is_shown_as_it_is_listed() -> None:
    http = client()
    assert http.get("/v1/models/demo").json() == http.get("/v1/models").json()["data"][0]
    missing = http.get("/v1/models/gpt")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


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


def test_a_bug_while_the_app_answers_is_logged_with_its_request(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "ray.serve.vidray.gateway"):
        client(error=RuntimeError("/secret/path")).get("/v1/models?key=secret", headers={"X-Request-ID": "r2"})
    failed, logged = caplog.records
    assert failed.exc_info is not None
    fields = vars(logged)
    assert (fields["route"], fields["status"], fields["request_id"]) == ("/v1/models", 500, "r2")
    assert fields["owner"] == "local"
    assert "secret" not in str({name: value for name, value in fields.items() if name != "exc_info"})


def test_probes_that_go_well_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "ray.serve.vidray.gateway"):
        client().get("/livez")
    assert caplog.records == []


def routes() -> list[APIRoute]:
    return [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]


def methods(route: APIRoute) -> set[str]:
    return route.methods or set()


PAGES = ("/", "/page/{name}", "/docs", "/docs/{name}")
OF_NOBODY = ("/livez", "/readyz", *PAGES)
"""The probes', and the pages': they have to be there before a key can be put into them."""


def test_every_route_but_the_probes_and_the_pages_declares_the_role_it_needs() -> None:
    for route in routes():
        roles = [needs.call.role for needs in route.dependant.dependencies if isinstance(needs.call, Needs)]
        assert len(roles) == (0 if route.path in OF_NOBODY else 1), route.path
        if roles:
            reads = methods(route) <= {"GET", "HEAD"} and not route.path.startswith("/v1/uploads")
            assert roles == [Role.VIEWER if reads else Role.ANALYST], route.path


def test_a_viewer_reads_and_does_nothing_else() -> None:
    http = client()
    viewer = {"Authorization": "Bearer ann viewer"}
    assert http.get("/v1/files", headers=viewer).status_code == 200
    for route in routes():
        path = route.path.replace("{file_id}", "file_x").replace("{upload_id}", "upload_x")
        for method in methods(route) - {"GET", "HEAD"}:
            answer = http.request(method, path, headers=viewer, json={"filename": "v", "bytes": 1, "part_ids": ["p"]})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), route.path


def test_openapi_names_every_route_once() -> None:
    app: FastAPI = create_app(FakeServices(open_store("memory:///"), DEMO))
    document = app.openapi()
    assert set(document["paths"]) == {route.path for route in routes()} - {*PAGES}
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))
