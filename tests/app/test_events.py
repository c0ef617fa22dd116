"""The events of analyses as server-sent events and over WebSocket, also where something goes wrong meanwhile."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from obstore.store import ObjectStore
from starlette.testclient import WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from deployments.errors import StorageFailed
from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.deployment import ModelStatus
from pipelines.store import open_store
from serve_app.analyses.journal import Event, Journal
from serve_app.api import events as events_module
from serve_app.api.app import create_app
from serve_app.principal import LOCAL
from tests.app.fakes import FakeServices
from tests.app.made_up import Analysis
from tests.videos import write_video

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("decoded_in_no_time")]
SIM = ModelStatus(model_info("sim", VisionSettings(engine="simulated")), "ready", 0, loads_on_first_use=False)
CLIPS = 4


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Four seconds."""
    return write_video(tmp_path_factory.mktemp("v") / "v.mp4", frames=100).read_bytes()


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path))


@pytest.fixture
def services(store: ObjectStore) -> FakeServices:
    return FakeServices(store, SIM)


@pytest.fixture
def http(services: FakeServices) -> Iterator[TestClient]:
    with TestClient(create_app(services), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def file_id(http: TestClient, video: bytes) -> str:
    one: str = http.post("/v1/files", files={"file": ("cats.mp4", video)}).json()["id"]
    return one


def accepted(http: TestClient, file_id: str) -> str:
    answer = http.post("/v1/analyses", json={"file_id": file_id, "clip_duration_s": 1.0})
    assert answer.status_code == 202, answer.text
    one: str = answer.json()["id"]
    return one


def done(store: ObjectStore, clips: int) -> Analysis:
    """An analysis of the local principal that is done."""
    return asyncio.run(Analysis(store, clips, owner=LOCAL.owner).whole())


def close_code(socket: WebSocketTestSession) -> int:
    with pytest.raises(WebSocketDisconnect) as closed:
        socket.receive_json()
    return closed.value.code


def sse(text: str) -> list[tuple[int, str, dict[str, Any]]]:
    """Read a stream of server-sent events: id, type, data."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith((":", "retry")))
        if fields:
            events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return events


def test_events_stream_until_the_end_and_resume_behind_any_id(http: TestClient, file_id: str) -> None:
    one = accepted(http, file_id)
    answer = http.get(f"/v1/analyses/{one}/events")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    live = sse(answer.text)
    assert [number for number, _, _ in live] == list(range(1, CLIPS + 4))
    assert [kind for _, kind, _ in live] == ["progress", *["clip"] * CLIPS, "summary", "done"]
    assert live[-1][2]["status"] == "completed"
    assert [passage["text"] for passage in live[-2][2]["passages"]] == ["0", "1", "2", "3"]
    assert {data["text"] for _, kind, data in live if kind == "clip"} == {"0", "1", "2", "3"}
    resumed = http.get(f"/v1/analyses/{one}/events", headers={"Last-Event-ID": "3"})
    assert sse(resumed.text) == live[3:]
    assert sse(http.get(f"/v1/analyses/{one}/events?after=4").text) == live[4:]
    assert http.get("/v1/analyses/ana_0/events").status_code == 404


def test_a_quiet_stream_says_that_it_is_alive(
    http: TestClient, file_id: str, services: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "KEEP_ALIVE_S", 0.05)
    services.model.held = True
    one = accepted(http, file_id)

    def let_go() -> None:
        time.sleep(0.5)
        http.post(f"/v1/analyses/{one}/cancel")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(let_go)
        assert ": still here\n\n" in http.get(f"/v1/analyses/{one}/events").text


def test_a_websocket_tells_the_same(http: TestClient, file_id: str) -> None:
    one = accepted(http, file_id)
    with http.websocket_connect(f"/v1/analyses/{one}/ws") as socket:
        told = [socket.receive_json() for _ in range(CLIPS + 3)]
        assert close_code(socket) == 1000
    assert [event["id"] for event in told] == list(range(1, CLIPS + 4))
    assert told[-1]["type"] == "done"
    with http.websocket_connect(f"/v1/analyses/{one}/ws?after=4") as socket:
        assert [socket.receive_json() for _ in told[4:]] == told[4:]
        assert close_code(socket) == 1000


def test_a_websocket_to_what_is_not_ones_own_is_closed(http: TestClient, file_id: str) -> None:
    one = accepted(http, file_id)
    for path, headers in (("ana_0", {}), (one, {"Authorization": "Bearer bob viewer"})):
        with http.websocket_connect(f"/v1/analyses/{path}/ws", headers=headers) as socket:
            assert close_code(socket) == 4404


def test_nothing_is_streamed_behind_the_end_so_that_nobody_comes_back(http: TestClient, store: ObjectStore) -> None:
    one = done(store, 3)
    for last in (len(one.events), len(one.events) + 1, 2**52):
        answer = http.get(f"/v1/analyses/{one.id}/events", headers={"Last-Event-ID": str(last)})
        assert (answer.status_code, answer.content) == (204, b""), last
        with http.websocket_connect(f"/v1/analyses/{one.id}/ws?after={last}") as socket:
            assert close_code(socket) == 1000


@pytest.fixture
def failing_behind(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Journals fail where someone reads behind an id above the one in the list, if there is one."""
    limit: list[int] = []
    after = Journal.after

    async def failing(journal: Journal, last_id: int, most: int = 1) -> list[Event]:
        if limit and last_id > limit[0]:
            raise StorageFailed("cannot read /a/secret/path: gone")
        return await after(journal, last_id, most)

    monkeypatch.setattr(Journal, "after", failing)
    return limit


def test_a_stream_that_the_store_fails_ends_and_goes_on_when_asked_again(
    http: TestClient,
    services: FakeServices,
    store: ObjectStore,
    failing_behind: list[int],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = done(store, 200)
    http.get(f"/v1/analyses/{one.id}")
    shown = services.analyses.get
    look = asyncio.run(shown(LOCAL, one.id))

    async def as_looked(*_: Any) -> Any:
        return look

    monkeypatch.setattr(services.analyses, "get", as_looked)
    failing_behind.append(50)
    answer = http.get(f"/v1/analyses/{one.id}/events")
    assert answer.status_code == 200
    assert "error" not in answer.text
    first = sse(answer.text)
    assert 50 < len(first) < len(one.events)
    assert "events cannot be told" in [record.message for record in caplog.records]
    with http.websocket_connect(f"/v1/analyses/{one.id}/ws") as socket:
        assert [socket.receive_json()["id"] for _ in first] == [event_id for event_id, _, _ in first]
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert (closed.value.code, closed.value.reason) == (1013, "storage_failed")
    failing_behind.clear()
    rest = sse(http.get(f"/v1/analyses/{one.id}/events", headers={"Last-Event-ID": str(first[-1][0])}).text)
    assert [event_id for event_id, _, _ in first + rest] == list(range(1, len(one.events) + 1))


def test_one_connection_carries_so_much_and_the_next_one_the_rest(
    http: TestClient, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "CONNECTION_BYTES", 20_000)
    one = done(store, 300)
    seen: list[int] = []
    connections = 0
    while (answer := http.get(f"/v1/analyses/{one.id}/events?after={seen[-1] if seen else 0}")).status_code == 200:
        assert len(answer.content) < 20_000 + 64 * 500
        seen += [event_id for event_id, _, _ in sse(answer.text)]
        connections += 1
    assert answer.status_code == 204
    assert seen == list(range(1, 303))
    assert connections > 3
    told: list[int] = []
    codes: list[int] = []
    while not codes or codes[-1] == 1013:
        with http.websocket_connect(f"/v1/analyses/{one.id}/ws?after={told[-1] if told else 0}") as socket:
            while (message := socket.receive())["type"] == "websocket.send":
                told.append(json.loads(message["text"])["id"])
            codes.append(message["code"])
    assert told == seen
    assert codes == [1013] * (len(codes) - 1) + [1000]
    assert len(codes) > 3


def test_a_websocket_has_a_line_in_the_log_with_its_request_id(
    http: TestClient, store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    one = done(store, 3)
    with caplog.at_level("INFO", "ray.serve.vidray.gateway"):
        with http.websocket_connect(f"/v1/analyses/{one.id}/ws?after=4", headers={"X-Request-ID": "mine"}) as socket:
            headers: Any = socket.extra_headers
            assert (b"x-request-id", b"mine") in headers
            socket.receive_json()
            assert close_code(socket) == 1000
        with http.websocket_connect("/v1/analyses/ana_0/ws") as socket:
            assert close_code(socket) == 4404
    first, second = (vars(record) for record in caplog.records if record.message == "request")
    assert (first["method"], first["route"], first["status"]) == ("WEBSOCKET", "/v1/analyses/{analysis_id}/ws", 1000)
    assert (first["request_id"], first["owner"]) == ("mine", LOCAL.owner)
    assert first["took_s"] >= 0
    assert second["status"] == 4404
    assert len(second["request_id"]) == 32


def test_a_watcher_cancelled_while_it_leaves_is_no_failure(
    http: TestClient, services: FakeServices, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = done(store, 3)
    over = threading.Event()

    async def slow_to_end(*_: Any, **__: Any) -> AsyncIterator[list[Event]]:
        try:
            yield [Event(1, "progress", 0.0, {})]
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.3)  # leaving the `with` cancels the app while it is here
            over.set()

    monkeypatch.setattr(services.analyses, "events", slow_to_end)
    with http.websocket_connect(f"/v1/analyses/{one.id}/ws") as socket:
        assert socket.receive_json()["type"] == "progress"
    assert over.wait(10)


def test_a_bug_closes_a_websocket_and_is_logged(
    http: TestClient,
    services: FakeServices,
    store: ObjectStore,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = done(store, 3)

    async def broken(*_: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(services.analyses, "get", broken)
    with http.websocket_connect(f"/v1/analyses/{one.id}/ws") as socket:
        assert close_code(socket) == 1011
    failed = next(record for record in caplog.records if record.message == "request failed")
    assert failed.exc_info
