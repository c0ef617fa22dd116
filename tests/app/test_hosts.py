"""A service without keys is asked by its own names alone, so that no web page can take it for its own."""

from collections.abc import Collection
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from deployments.settings import VisionSettings
from pipelines.store import open_store
from serve_app.api.app import create_app
from serve_app.gateway import Gateway
from serve_app.settings import AppArgs
from tests.app.fakes import FakeServices

SOCKET = "/v1/analyses/ana_x/ws"


def app(names: Collection[str] | None) -> TestClient:
    services = FakeServices(open_store("memory:///"))
    services.host_names = names
    return TestClient(create_app(services))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8000", "192.168.1.5", "[::1]:8000", "[fe80::1]", "localhost", "LOCALHOST:8000", "localhost.",
        "vidray.localhost:8000", "myserver", "MyServer:8000",
    ],
)  # fmt: skip
def test_an_address_localhost_and_a_configured_name_are_answered(host: str) -> None:
    assert app(("myserver",)).get("/v1/files", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "evil-localhost",
        "myserver.evil.example", "other", "", "[::1", "127.0.0.1:8000@evil.example",
    ],
)  # fmt: skip
def test_a_name_that_may_be_somebody_elses_is_refused(host: str) -> None:
    http = app(("myserver",))
    for path in ("/", "/docs", "/v1/files", "/metrics"):
        answer = http.get(path, headers={"Host": host, "X-Request-ID": "r1"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_not_allowed")
        assert answer.json()["request_id"] == "r1"


def test_who_is_refused_is_told_which_option_lets_him_in() -> None:
    answer = app(()).get("/", headers={"Host": "myserver:8000"})
    assert answer.json()["error"]["message"] == (
        "expected a host that is an IP address, localhost or one of `host_names` in the args of this server's config, "
        "got 'myserver'"
    )


def test_probes_are_answered_by_any_name() -> None:
    for path in ("/livez", "/readyz"):
        assert app(()).get(path, headers={"Host": "vidray.default.svc"}).status_code == 200


def test_where_keys_are_asked_for_any_name_will_do() -> None:
    assert app(None).get("/v1/files", headers={"Host": "videos.example.com"}).status_code == 200


def closed(names: Collection[str], **headers: str) -> Any:
    with app(names).websocket_connect(SOCKET, headers=headers) as socket:
        return socket.receive()["code"]


@pytest.mark.parametrize(
    ("host", "origin", "names", "code"),
    [
        ("localhost:8000", "https://evil.example", (), 4403),
        ("localhost:8000", "http://localhost.evil.example:8000", (), 4403),
        ("localhost:8000", "null", (), 4403),
        ("evil.example", "http://evil.example", (), 4403),
        ("localhost:8000", "http://localhost:8000", (), 4404),
        ("127.0.0.1:8000", "https://videos.example.com", ("videos.example.com",), 4404),
    ],
)
def test_a_socket_of_another_hosts_page_is_closed(host: str, origin: str, names: Collection[str], code: int) -> None:
    assert closed(names, Host=host, Origin=origin) == code, "4404: no such analysis, so it was let in"


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://evil.example", 403), ("null", 403), ("http://localhost:8000", 400), (None, 400)],
)
def test_a_form_of_another_hosts_page_changes_nothing(origin: str | None, status: int) -> None:
    headers = {"Host": "localhost:8000"} | ({} if origin is None else {"Origin": origin})
    http = app(())
    assert http.post("/v1/analyze", data={"model": "sim"}, headers=headers).status_code == status
    assert http.get("/v1/files", headers=headers).status_code == 200, "which that page may not read"


def test_a_socket_of_no_page_is_let_in() -> None:
    assert closed((), Host="localhost:8000") == 4404


def test_the_gateway_is_asked_by_the_names_of_its_config() -> None:
    args = AppArgs(models={"demo": VisionSettings()}, default_model="demo", host_names=("myserver",))
    runner: Any = None
    http = TestClient(Gateway(args, runner, None).__serve_build_asgi_app__())
    statuses = [http.get("/", headers={"Host": host}).status_code for host in ("myserver", "localhost", "evil.example")]
    assert statuses == [200, 200, 403]


@pytest.mark.parametrize("name", ["myserver:8000", "http://myserver", "*", ""])
def test_a_name_that_could_never_be_met_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        AppArgs(models={"demo": VisionSettings()}, default_model="demo", host_names=(name,))
