"""What is too much is refused at once, kind by kind, and no body takes longer or more room than it may."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, get_args

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, APIWebSocketRoute
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.deployment import ModelStatus
from pipelines.store import open_store
from serve_app.api import bodies
from serve_app.api.admission import Kind, kind_of
from serve_app.api.app import ROUTERS, create_app
from serve_app.settings import AdmissionSettings
from tests.app.fakes import FakeServices

DEMO = ModelStatus(model_info("demo", VisionSettings()), "ready", 0, loads_on_first_use=False)
OF_A_KIND: dict[Kind | None, set[tuple[str, str]]] = {
    "uploads": {("POST", "/v1/files"), ("POST", "/v1/analyze"), ("POST", "/v1/uploads/{upload_id}/parts")},
    "downloads": {("GET", "/v1/files/{file_id}/content")},
    "watchers": {("GET", "/v1/analyses/{analysis_id}/events"), ("WS", "/v1/analyses/{analysis_id}/ws")},
    "chats": {("POST", "/v1/chat/completions")},
    None: {("GET", "/livez"), ("GET", "/readyz"), ("GET", "/metrics")},
}
"""Every other route is one of the `requests`."""
ONE_OF_EACH = AdmissionSettings(uploads=1, downloads=1, watchers=1, chats=1, requests=1)
JSON = (b"content-type", b"application/json")
FORM = (b"content-type", b"multipart/form-data; boundary=b")


@pytest.fixture
def app() -> FastAPI:
    return create_app(FakeServices(open_store("memory:///"), DEMO), admission=ONE_OF_EACH)


def test_every_route_is_counted_as_what_it_holds_a_place_for() -> None:
    counted: dict[Kind | None, set[tuple[str, str]]] = {kind: set() for kind in (*get_args(Kind), None)}
    for route in (route for router in ROUTERS for route in router.routes):
        if isinstance(route, APIWebSocketRoute):
            counted[kind_of({"type": "websocket", "path": route.path})].add(("WS", route.path))
        elif isinstance(route, APIRoute):
            for method in route.methods or ():
                counted[kind_of({"type": "http", "method": method, "path": route.path})].add((method, route.path))
    others = counted.pop("requests")
    assert counted == OF_A_KIND
    assert others > {("POST", "/v1/analyses"), ("GET", "/v1/analyses/{analysis_id}")}


async def ask(app: FastAPI, method: str, path: str, *messages: Any, headers: list[Any] | None = None) -> int:
    """Return the status that answers; a message may be awaitable, and behind the last one nothing ever comes."""
    coming = iter(messages)
    statuses: list[int] = []

    async def receive() -> Any:
        message = next(coming, None)
        if message is None:
            await asyncio.Event().wait()
        return await message() if callable(message) else message

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "root_path": "", "app": app}
    await app(scope | {"headers": headers or []}, receive, send)
    [status] = statuses
    return status


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def held(until: asyncio.Event, body: bytes) -> Callable[[], Awaitable[dict[str, Any]]]:
    async def come() -> dict[str, Any]:
        await until.wait()
        return part(body)

    return come


def test_too_many_of_one_kind_are_refused_at_once_and_others_are_not(app: FastAPI) -> None:
    form = [FORM, (b"content-length", b"1000")]

    async def run() -> None:
        over = asyncio.Event()
        slow = asyncio.create_task(ask(app, "POST", "/v1/files", held(over, b"--b--"), headers=form))
        await asyncio.sleep(0.05)
        begun_s = asyncio.get_running_loop().time()
        # Nothing of its body has come, and nothing is waited for.
        assert await ask(app, "POST", "/v1/files", headers=form) == 503
        assert asyncio.get_running_loop().time() - begun_s < 0.5
        assert await ask(app, "GET", "/v1/files", part(b"")) == 200
        assert await ask(app, "GET", "/livez", part(b"")) == 200
        over.set()
        assert await slow == 422, "a form without a file"
        assert await ask(app, "POST", "/v1/files", part(b"--b--"), headers=form) == 422, "its place is free again"

    asyncio.run(run())


def test_a_refusal_says_when_to_come_back_and_is_counted(app: FastAPI) -> None:
    app.state.under_way["requests"] = 1
    with TestClient(app) as http:
        answer = http.get("/v1/files")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert answer.json()["error"]["code"] == "overloaded"
        assert answer.json()["error"]["message"] == "expected fewer than 1 requests at once, got one more"
        text = http.get("/metrics").text
    replica = app.state.metrics.replica
    assert f'vidray_http_under_way{{kind="requests",replica="{replica}"}} 1.0' in text
    assert 'status="503"' in text


def test_a_socket_too_many_is_told_to_try_again_later(app: FastAPI) -> None:
    app.state.under_way["watchers"] = 1
    with (
        TestClient(app) as http,
        pytest.raises(WebSocketDisconnect) as closed,
        http.websocket_connect("/v1/analyses/ana_x/ws") as socket,
    ):
        socket.receive_text()
    assert closed.value.code == 1013


def test_a_json_body_that_stops_coming_is_cut(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "IDLE_BODY_S", 0.1)
    headers = [JSON, (b"content-length", b"20")]
    assert asyncio.run(ask(app, "POST", "/v1/analyses", part(b'{"file_id":', more=True), headers=headers)) == 408


def test_a_json_body_has_an_end_announced_or_not(app: FastAPI) -> None:
    announced = [JSON, (b"content-length", str(bodies.MAX_BYTES + 1).encode())]
    assert asyncio.run(ask(app, "POST", "/v1/analyses", headers=announced)) == 413
    endless = [part(b" " * 400_000, more=True)] * 3
    chunked = [JSON, (b"transfer-encoding", b"chunked")]
    assert asyncio.run(ask(app, "POST", "/v1/analyses", *endless, headers=chunked)) == 413


@pytest.mark.parametrize(
    "path", ["/v1/analyses", "/v1/uploads", "/v1/uploads/upload_x/complete", "/v1/chat/completions", "/v1/nothing"]
)
def test_a_body_that_calls_itself_a_form_has_an_end_where_no_video_is_expected(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(bodies, "IDLE_BODY_S", 0.1)
    chunked = [FORM, (b"transfer-encoding", b"chunked")]
    endless = [part(bytes(400_000), more=True)] * 3
    assert asyncio.run(ask(app, "POST", path, *endless, headers=chunked)) == 413
    assert asyncio.run(ask(app, "POST", path, part(b"--b", more=True), headers=chunked)) == 408


def test_a_json_body_in_pieces_is_read_whole(app: FastAPI) -> None:
    pieces = [part(b'{"file_id": "file_0', more=True), part(b'0"}')]
    headers = [JSON, (b"transfer-encoding", b"chunked")]
    assert asyncio.run(ask(app, "POST", "/v1/analyses", *pieces, headers=headers)) == 404, "no such file"
