"""Videos that are named by their url: what is read from a real server or folder, what not, and what is left behind."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from pydantic import ValidationError

from pipelines import store as objects
from pipelines.store import open_store, sizes_below
from serve_app import files
from serve_app.api.app import create_app
from serve_app.settings import SourceSettings
from serve_app.sources import Sources
from tests.app.fakes import MAX_FILE_BYTES, FakeServices
from tests.app.test_analyses import SIM, code, until_done
from tests.videos import write_video

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("decoded_in_no_time")]
IDLE_S, DEADLINE_S = 0.4, 1.2


class Host(ThreadingHTTPServer):
    """Serves a video under every path that is no other behaviour's name, and counts what it is asked."""

    daemon_threads = True

    def __init__(self, video: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.video = video
        self.asked: list[str] = []
        self.let_go = Event()


class _Handler(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        name, video = self.path.split("?")[0].strip("/"), self.server.video
        if name.isdecimal():
            self._head(int(name), 0, Location="/film.mp4")
        elif name == "silent":
            self.server.let_go.wait(30)
        elif name == "stalled":
            self._head(200, len(video))
            self.wfile.write(video[:1000])
            self.server.let_go.wait(30)
        elif name == "trickle":
            self._head(200, len(video))
            for at in range(len(video)):
                if self.server.let_go.wait(0.1):
                    return
                self.wfile.write(video[at : at + 1])
        elif name == "cut":
            self._head(200, len(video))
            self.wfile.write(video[:-1])
        elif name == "announced":
            self._head(200, MAX_FILE_BYTES + 1)
            self.server.let_go.wait(30)
        elif name == "endless":
            self._head(200, None)
            self.wfile.write(b"x" * (MAX_FILE_BYTES + 1))
            self.server.let_go.wait(30)
        else:
            body = b"no video" if name == "text.mp4" else video
            self._head(200, len(body))
            self.wfile.write(body)

    def _head(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for header, value in headers.items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.flush()

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True  # the reader has had enough, which some tests are about

    def log_message(self, format: str, *args: Any) -> None:
        return None


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("v") / "v.mp4", frames=50).read_bytes()


@pytest.fixture
def host(video: bytes) -> Iterator[Host]:
    with Host(video) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.let_go.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def films(tmp_path: Path, video: bytes) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "cats & dogs.mp4").write_bytes(video)
    (tmp_path / "secret.mp4").write_bytes(video)
    return folder


@pytest.fixture
def services(tmp_path: Path, host: Host, films: Path) -> FakeServices:
    services = FakeServices(open_store(str(tmp_path / "store")), SIM)
    settings = SourceSettings(
        allowed_hosts=("videos.invalid", f"127.0.0.1:{host.server_port}"),
        allowed_directories=(str(films),),
        idle_s=IDLE_S,
        deadline_s=DEADLINE_S,
    )
    services.sources = Sources(settings, max_bytes=MAX_FILE_BYTES)
    return services


@pytest.fixture
def http(services: FakeServices) -> Iterator[TestClient]:
    with TestClient(create_app(services), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def left(services: FakeServices) -> Callable[[], set[str]]:
    return lambda: set(asyncio.run(sizes_below(services._store, "owners")))


def ask(http: TestClient, url: str, **options: Any) -> Response:
    return http.post("/v1/analyses", json={"url": url, "clip_duration_s": 1.0} | options)


def on(host: Host, path: str) -> str:
    return f"http://127.0.0.1:{host.server_port}/{path}"


def test_a_video_at_a_url_becomes_a_file_and_is_analysed(
    http: TestClient, host: Host, video: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        answer = ask(http, on(host, "films/cats%20%26%20dogs.mp4?token=s3cret"))
    assert answer.status_code == 202, answer.text
    analysis = answer.json()
    assert analysis["filename"] == "cats & dogs.mp4"
    assert until_done(http, analysis["id"])["state"] == "completed"
    assert http.get(f"/v1/files/{analysis['file_id']}/content").content == video
    assert "s3cret" not in caplog.text + answer.text
    sent = http.post("/v1/files", files={"file": ("other.mp4", video)}).json()
    assert sent["id"] == analysis["file_id"], "the same bytes are stored once, however they came"


@pytest.mark.parametrize(
    ("path", "status", "kind", "said"),
    [
        ("302", 422, "invalid_option", "expected the video itself, got a redirect (302): none is followed"),
        ("307", 422, "invalid_option", "redirect (307)"),
        ("404", 404, "source_not_found", "status 404"),
        ("403", 422, "invalid_option", "status 403"),
        ("204", 422, "invalid_option", "status 204"),
        ("500", 503, "source_unavailable", "status 500 from its host: try again"),
        ("429", 503, "source_unavailable", "status 429"),
        ("silent", 503, "source_unavailable", "a pause of 0.4 s"),
        ("stalled", 503, "source_unavailable", "a pause of 0.4 s"),
        ("trickle", 503, "source_unavailable", "no end within 1.2 s"),
        ("cut", 503, "source_unavailable", "expected its host to send the video"),
        ("announced", 413, "too_large", f"at most {MAX_FILE_BYTES} bytes, got {MAX_FILE_BYTES + 1}"),
        ("endless", 413, "too_large", f"at most {MAX_FILE_BYTES} bytes, got more"),
        ("text.mp4", 415, "unreadable_video", "text.mp4"),
    ],
)
def test_what_is_no_video_there_is_told_in_one_line_and_leaves_nothing(
    http: TestClient, host: Host, left: Callable[[], set[str]], path: str, status: int, kind: str, said: str
) -> None:
    begun_s = time.monotonic()
    answer = ask(http, on(host, f"{path}?token=s3cret"))
    assert code(answer) == (status, kind), answer.text
    assert said in answer.json()["error"]["message"]
    assert "s3cret" not in answer.text
    assert time.monotonic() - begun_s < DEADLINE_S + 5
    assert len(host.asked) == 1
    assert left() == set()


@pytest.mark.parametrize(
    ("url", "status", "kind"),
    [
        ("http://localhost:{port}/film.mp4", 403, "source_not_allowed"),
        ("http://127.0.0.1/film.mp4", 403, "source_not_allowed"),
        ("http://127.1:{port}/film.mp4", 403, "source_not_allowed"),
        ("http://2130706433:{port}/film.mp4", 403, "source_not_allowed"),
        ("http://[::ffff:127.0.0.1]:{port}/film.mp4", 403, "source_not_allowed"),
        ("http://videos.invalid.:80/film.mp4", 403, "source_not_allowed"),
        ("http://videos.invalid:81/film.mp4", 403, "source_not_allowed"),
        ("http://videos.invalid@127.0.0.1:1/film.mp4", 422, "invalid_option"),
        ("http://me:secret@127.0.0.1:{port}/film.mp4", 422, "invalid_option"),
        ("http:///film.mp4", 422, "invalid_option"),
        ("http://127.0.0.1:port/film.mp4", 422, "invalid_option"),
        ("ftp://127.0.0.1:{port}/film.mp4", 422, "invalid_option"),
        ("data:video/mp4;base64,AAAA", 422, "invalid_option"),
        ("film.mp4", 422, "invalid_option"),
    ],
)
def test_no_other_host_is_spoken_to(http: TestClient, host: Host, url: str, status: int, kind: str) -> None:
    answer = ask(http, url.format(port=host.server_port))
    assert code(answer) == (status, kind), answer.text
    assert answer.json()["error"]["param"] == "url"
    assert host.asked == []


@pytest.mark.parametrize("local", [True, False])
def test_a_video_that_has_no_room_is_not_begun(
    http: TestClient,
    host: Host,
    films: Path,
    video: bytes,
    left: Callable[[], set[str]],
    monkeypatch: pytest.MonkeyPatch,
    local: bool,
) -> None:
    monkeypatch.setattr(objects, "free_bytes", lambda _: files._MIN_FREE_BYTES + len(video) - 1)
    before = left()
    url = (films / "cats & dogs.mp4").as_uri() if local else on(host, "film.mp4")
    assert code(ask(http, url)) == (503, "storage_full")
    assert left() == before


def test_a_host_that_is_not_there_is_unavailable(http: TestClient) -> None:
    assert code(ask(http, "http://videos.invalid/film.mp4")) == (503, "source_unavailable")


def test_nothing_is_read_for_options_that_make_no_sense(http: TestClient, host: Host, video: bytes) -> None:
    url = on(host, "film.mp4")
    for options in ({"fps": 1, "frames_per_clip": 2}, {"model": "gpt"}, {"events": [""]}, {"file_id": "file_x"}):
        assert ask(http, url, **options).status_code in (404, 422)
    neither = http.post("/v1/analyses", json={})
    assert code(neither) == (422, "invalid_option")
    assert "expected file_id or url, got neither" in neither.json()["error"]["message"]
    assert host.asked == []


def test_urls_are_off_until_a_list_is_configured(http: TestClient, host: Host, services: FakeServices) -> None:
    services.sources = Sources(SourceSettings(), max_bytes=MAX_FILE_BYTES)
    for url in (on(host, "film.mp4"), "file:///films/cats.mp4"):
        assert code(ask(http, url)) == (403, "source_not_allowed")
    assert host.asked == []


def test_the_same_key_and_url_ask_for_the_same_analysis(http: TestClient, host: Host) -> None:
    key = {"Idempotency-Key": "my key"}
    answers = [http.post("/v1/analyses", json={"url": on(host, "film.mp4")}, headers=key) for _ in range(2)]
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_a_file_below_an_allowed_directory_is_read(http: TestClient, films: Path, video: bytes) -> None:
    (films / "shelf").mkdir()
    (films / "shelf" / "link.mp4").symlink_to(films / "cats & dogs.mp4")
    for path in ("cats%20&%20dogs.mp4", "shelf/link.mp4", "shelf/../cats%20%26%20dogs.mp4"):
        answer = ask(http, f"file://{films}/{path}")
        assert answer.status_code == 202, answer.text
        assert http.get(f"/v1/files/{answer.json()['file_id']}/content").content == video


def test_no_path_leads_out_of_the_allowed_directories(
    http: TestClient, films: Path, left: Callable[[], set[str]]
) -> None:
    (films / "link.mp4").symlink_to(films.parent / "secret.mp4")
    (films / "up").symlink_to(films.parent)
    (films.parent / "films-of-others").mkdir()
    (films.parent / "films-of-others" / "theirs.mp4").write_bytes(b"")
    os.mkfifo(films / "pipe.mp4")
    outside = ("../secret.mp4", "%2e%2e/secret.mp4", "..%2Fsecret.mp4", "link.mp4", "up/secret.mp4", "up/none.mp4")
    for path in (*outside, "../films-of-others/theirs.mp4"):
        assert code(ask(http, f"file://{films}/{path}")) == (403, "source_not_allowed"), path
    for path in ("none.mp4", "", "pipe.mp4", "a%00b"):
        assert code(ask(http, f"file://{films}/{path}")) == (404, "source_not_found"), path
    for url in (f"file://elsewhere{films}/cats%20&%20dogs.mp4", "file:cats.mp4"):
        assert ask(http, url).status_code in (403, 422), url
    assert left() == set()


def test_a_folder_that_becomes_a_link_while_it_is_opened_leads_nowhere(
    http: TestClient, films: Path, services: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    (films / "shelf").mkdir()
    (films / "shelf" / "secret.mp4").write_bytes(b"")
    really_open = os.open

    def swapped(path: str, *how: Any, **more: Any) -> int:
        if path == str(films / "shelf" / "secret.mp4"):
            (films / "shelf" / "secret.mp4").unlink()
            (films / "shelf").rmdir()
            (films / "shelf").symlink_to(films.parent)
        return really_open(path, *how, **more)

    monkeypatch.setattr(os, "open", swapped)
    assert code(ask(http, f"file://{films}/shelf/secret.mp4")) == (403, "source_not_allowed")


def test_a_file_that_is_too_large_is_refused(http: TestClient, films: Path, left: Callable[[], set[str]]) -> None:
    with (films / "long.mp4").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    assert code(ask(http, f"file://{films}/long.mp4")) == (413, "too_large")
    assert left() == set()


@pytest.mark.parametrize(
    "settings",
    [
        {"allowed_hosts": ["https://videos.example.com"]},
        {"allowed_hosts": ["*.example.com"]},
        {"allowed_hosts": ["Videos.example.com"]},
        {"allowed_directories": ["films"]},
    ],
)
def test_lists_that_would_never_fit_are_refused(settings: dict[str, list[str]]) -> None:
    with pytest.raises(ValidationError):
        SourceSettings.model_validate(settings)
