"""The end of a gateway: not ready any more, watchers are let go to come back, requests in flight end."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.deployment import ModelStatus
from pipelines.store import open_store
from serve_app.analyses.journal import Event
from serve_app.api.app import create_app
from serve_app.draining import Draining
from tests.app.fakes import FakeServices
from tests.videos import write_video

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("decoded_in_no_time")]
SIM = ModelStatus(model_info("sim", VisionSettings(engine="simulated")), "ready", 0, loads_on_first_use=False)


@pytest.fixture
def services(tmp_path: Path) -> FakeServices:
    services = FakeServices(open_store(str(tmp_path / "storage")), SIM)
    services.model.held = True
    return services


@pytest.fixture
def http(services: FakeServices) -> Iterator[TestClient]:
    with TestClient(create_app(services)) as client:
        yield client


@pytest.fixture
def analysis(http: TestClient, tmp_path: Path) -> str:
    """One that is described for ever."""
    content = write_video(tmp_path / "v.mp4", frames=50).read_bytes()
    file_id = http.post("/v1/files", files={"file": content}).json()["id"]
    one: str = http.post("/v1/analyses", json={"file_id": file_id}).json()["id"]
    return one


def end(http: TestClient, services: FakeServices) -> None:
    """Begin the end on the app's own loop, as a replica does."""
    assert http.portal is not None
    http.portal.call(services.draining.begin)


def test_readyz_says_that_the_app_is_stopping_and_the_rest_is_still_answered(
    http: TestClient, services: FakeServices
) -> None:
    assert http.get("/readyz").status_code == 200
    end(http, services)
    answer = http.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "stopping", "waiting_for": []})
    assert answer.headers["Retry-After"]
    assert http.get("/livez").status_code == http.get("/v1/files").status_code == 200


def test_a_websocket_is_closed_for_a_restart_and_goes_on_elsewhere(
    http: TestClient, services: FakeServices, analysis: str
) -> None:
    with http.websocket_connect(f"/v1/analyses/{analysis}/ws") as socket:
        assert socket.receive_json()["id"] == 1
        end(http, services)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == 1012
    after = f"/v1/analyses/{analysis}/ws?after=1"
    with http.websocket_connect(after) as socket, pytest.raises(WebSocketDisconnect) as again:
        socket.receive_json()
    assert again.value.code == 1012, "and whoever comes meanwhile does not stay"


def test_an_sse_stream_ends_without_a_done(
    http: TestClient, services: FakeServices, analysis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = services.analyses.events

    async def and_then_the_end(*args: Any, **kwargs: Any) -> AsyncIterator[list[Event]]:
        async for some in events(*args, **kwargs):
            yield some
            services.draining.begin()

    monkeypatch.setattr(services.analyses, "events", and_then_the_end)
    begun_s = time.monotonic()
    text = http.get(f"/v1/analyses/{analysis}/events").text
    assert time.monotonic() - begun_s < 5.0
    assert text.startswith("retry: 1000\n\nid: 1\nevent: progress\n")
    assert "event: done" not in text


def test_the_end_waits_for_requests_in_flight_and_not_for_ever() -> None:
    async def run() -> tuple[int, int, int]:
        draining = Draining()
        idle = await draining.until_idle(0.01)
        with draining.request(), draining.request():
            late = await draining.until_idle(0.01)
            waiting = asyncio.create_task(draining.until_idle(10.0))
            await asyncio.sleep(0)
        return idle, late, await waiting

    assert asyncio.run(run()) == (0, 2, 0)


def test_the_app_counts_what_is_in_flight(http: TestClient, services: FakeServices, analysis: str) -> None:
    assert http.portal is not None
    with http.websocket_connect(f"/v1/analyses/{analysis}/ws") as socket:
        socket.receive_json()
        assert http.portal.call(services.draining.until_idle, 0.01) == 1
        end(http, services)
        with pytest.raises(WebSocketDisconnect):
            socket.receive_json()
    assert http.portal.call(services.draining.until_idle, 5.0) == 0
