"""`vidray analyze --server`: a video of this machine, described elsewhere, over any number of interruptions."""

import contextlib
import json
import os
import re
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import typer

from deployments.errors import ServiceFailed
from pipelines.command_line import DONE, FAILED, INTERRUPTED, PARTIAL, USAGE
from pipelines.options import AnalysisOptions
from pipelines.plan import SamplingOptions
from serve_app import resumable_upload, service_client
from serve_app.remote_analysis import RemoteRequest, _model, analyze_remotely
from serve_app.resumable_upload import send
from serve_app.service_client import ServiceClient
from tests import videos
from tests.app.served import SIM, Served
from tests.ray_cluster import at_a_terminal, free_port, vidray

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("decoded_in_no_time")]
ENVIRONMENT = os.environ | {"NO_COLOR": "1", "COLUMNS": "200"}
FREE_BYTES = 60_000
Analyze = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "service")
    yield made
    made.stop()


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Six seconds in 60,000 bytes and more, most of them a box that players skip."""
    path = videos.write_video(tmp_path / "film.mp4", frames=150)
    with path.open("ab") as content:
        content.write(struct.pack(">I4s", FREE_BYTES, b"free") + bytes(FREE_BYTES - 8))
    return path


def command(service: Served, film: Path, *arguments: str) -> list[str]:
    return vidray(
        "analyze", str(film), "--server", service.url, "--out", str(film.parent / "out"), "--clip-duration-s", "2",
        *arguments,
    )  # fmt: skip


@pytest.fixture
def analyze(service: Served, film: Path) -> Analyze:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        asked = command(service, film, *arguments)
        return subprocess.run(asked, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)

    return run


def analyses(service: Served) -> list[str]:
    answer = httpx2.get(f"{service.url}/v1/analyses").raise_for_status()
    return [one["id"] for one in answer.json()["data"]]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable_upload, "PART_BYTES", 20_000)
    monkeypatch.setattr(service_client, "_LONGEST_PAUSE_S", 0.01)


def test_a_video_is_sent_described_and_its_result_brought_home(service: Served, film: Path, analyze: Analyze) -> None:
    done = analyze()
    assert (done.returncode, done.stderr) == (DONE, "")
    assert "  00:00 – 00:02  0\n  00:02 – 00:04  2\n  00:04 – 00:06  4\n" in done.stdout
    out = film.parent / "out"
    kept = json.loads((out / "result.json").read_text())
    assert [clip["text"] for clip in kept["clips"]] == ["0", "2", "4"]
    assert (out / "timeline.md").read_text().startswith("# film.mp4")
    again = analyze("--json")
    assert again.returncode == DONE
    assert json.loads(again.stdout) == kept
    assert len(analyses(service)) == 1, "the same question about the same file is the same analysis"
    assert len(httpx2.get(f"{service.url}/v1/files").json()["data"]) == 1
    analyze("--prompt", "Why?")
    assert len(analyses(service)) == 2


def test_ctrl_c_leaves_the_analysis_and_the_same_command_comes_back(
    service: Served, film: Path, analyze: Analyze
) -> None:
    service.hold()
    running = at_a_terminal(command(service, film), env=ENVIRONMENT)
    try:
        while not (there := analyses(service)):
            time.sleep(0.05)
        while not service.services.analyses.watchers:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
    assert (running.returncode, out) == (INTERRUPTED, "")
    assert err == (
        "stopped watching; the analysis goes on: the same command comes back to it, "
        f"`vidray cancel {there[0]} --server {service.url}` ends it\n"
    )
    service.let(3)
    assert analyze().returncode == DONE
    assert analyses(service) == there


@pytest.mark.parametrize("path", ["/v1/analyses", "/result"])
def test_ctrl_c_says_how_to_go_on_also_where_a_service_that_is_gone_is_waited_for(
    service: Served,
    film: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    path: str,
) -> None:
    called = ServiceClient._called

    def gone(self: ServiceClient, method: str, at: str, **options: Any) -> Any:
        if at.endswith(path):
            raise ServiceFailed("gone")
        return called(self, method, at, **options)

    def pressed(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ServiceClient, "_called", gone)
    monkeypatch.setattr(service_client, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pressed))
    request = RemoteRequest(service.url, film, tmp_path / "out", AnalysisOptions())
    with pytest.raises(typer.Exit) as stopped:
        analyze_remotely(request)
    assert stopped.value.exit_code == INTERRUPTED
    assert re.match("stopped.*the same command", capsys.readouterr().err)


def test_a_second_try_whose_answer_was_lost_is_asked_for_again(
    service: Served, film: Path, analyze: Analyze, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.services.model.bad = {2.0}
    assert analyze().returncode == PARTIAL
    service.services.model.bad = set()
    lost: list[str] = []
    post = ServiceClient.post

    def losing(self: ServiceClient, path: str, *rest: Any, **options: Any) -> dict[str, Any]:
        answer = post(self, path, *rest, **options)
        if path.endswith("/retry") and not lost:
            lost.append(path)
            raise ServiceFailed("the answer is lost")
        return answer

    monkeypatch.setattr(ServiceClient, "post", losing)
    options = AnalysisOptions(sampling=SamplingOptions(clip_duration_s=2))
    result = analyze_remotely(RemoteRequest(service.url, film, tmp_path / "out", options))
    assert (result["status"], len(lost), len(analyses(service))) == ("completed", 1, 1)


def test_clips_that_failed_are_tried_again_by_the_same_command(service: Served, analyze: Analyze) -> None:
    service.services.model.bad = {2.0}
    assert analyze().returncode == PARTIAL
    service.services.model.bad = set()
    done = analyze()
    assert done.returncode == DONE
    assert "  00:02 – 00:04  2\n" in done.stdout
    assert len(analyses(service)) == 1


@pytest.mark.usefixtures("small_parts")
def test_a_cut_upload_sends_only_what_is_missing(service: Served, film: Path, tmp_path: Path) -> None:
    notes, arrived = tmp_path / "out" / "upload.json", []

    def cut(sent_bytes: int, size_bytes: int) -> None:
        arrived.append(sent_bytes)
        if len(arrived) == 3:
            raise KeyboardInterrupt

    with ServiceClient(service.url) as client:
        with pytest.raises(KeyboardInterrupt):
            send(client, film, notes, cut)
        told: list[int] = []
        file_id = send(client, film, notes, lambda sent_bytes, size_bytes: told.append(sent_bytes))
        assert arrived == [0, 20_000, 40_000]
        assert told[0] == 40_000
        assert told[-1] == film.stat().st_size
        content = httpx2.get(f"{service.url}/v1/files/{file_id}/content").content
        assert content == film.read_bytes()
        told.clear()
        assert send(client, film, notes, lambda sent_bytes, size_bytes: told.append(sent_bytes)) == file_id
        assert told == [], "it is there"


@pytest.mark.usefixtures("small_parts")
def test_a_file_that_changed_or_an_upload_that_is_gone_begins_anew(service: Served, film: Path, tmp_path: Path) -> None:
    notes = tmp_path / "upload.json"

    told: list[int] = []

    def cut(sent_bytes: int, size_bytes: int) -> None:
        told.append(sent_bytes)
        if sent_bytes:
            raise KeyboardInterrupt

    with ServiceClient(service.url) as client:
        with pytest.raises(KeyboardInterrupt):
            send(client, film, notes, cut)
        film.write_bytes(film.read_bytes() + b"\0" * 8)
        told.clear()
        with pytest.raises(KeyboardInterrupt):
            send(client, film, notes, cut)
        assert told[0] == 0, "the file is another one"
        upload = json.loads(notes.read_text())["upload_id"]
        client.post(f"/v1/uploads/{upload}/cancel")
        told.clear()
        file_id = send(client, film, notes, lambda sent, size: told.append(sent))
        assert told[0] == 0, "the upload was cancelled"
        assert httpx2.get(f"{service.url}/v1/files/{file_id}/content").content == film.read_bytes()


@pytest.mark.usefixtures("small_parts")
def test_a_service_that_is_gone_for_a_moment_costs_the_part_under_way(
    service: Served, film: Path, tmp_path: Path
) -> None:
    def restart(sent_bytes: int, size_bytes: int) -> None:
        if sent_bytes == 40_000:
            service.stop()
            service.start()

    with ServiceClient(service.url) as client:
        file_id = send(client, film, tmp_path / "upload.json", restart)
    assert httpx2.get(f"{service.url}/v1/files/{file_id}/content").content == film.read_bytes()


@pytest.mark.usefixtures("small_parts")
def test_a_service_that_stays_away_is_given_up(
    service: Served, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_client, "_PATIENCE_S", 1.5)

    def away(sent_bytes: int, size_bytes: int) -> None:
        if sent_bytes == 40_000:
            service.stop()

    with ServiceClient(service.url) as client, pytest.raises(ServiceFailed, match="ConnectError"):
        send(client, film, tmp_path / "upload.json", away)
    assert len(json.loads((tmp_path / "upload.json").read_text())["part_ids"]) == 2, "what has arrived is remembered"


def test_what_cannot_be_sent_is_one_line(service: Served, film: Path, analyze: Analyze, tmp_path: Path) -> None:
    told = analyze("--address", "auto")
    assert (told.returncode, told.stdout) == (USAGE, "")
    assert told.stderr.startswith("error: expected --server alone, got --address")
    told = analyze("--out", "s3://bucket/film")
    assert told.stderr == "error: expected a directory for --out beside --server, got 's3://bucket/film'\n"
    film.rename(tmp_path / "away.mp4")
    told = analyze()
    assert (told.returncode, told.stderr) == (USAGE, f"error: expected a video file, got no such file: {film}\n")
    film.write_text("this is no video")
    told = analyze()
    assert told.returncode in (USAGE, FAILED)
    assert told.stderr.startswith("error: expected a whole mp4")
    assert told.stderr.count("\n") == 1


def test_a_model_that_is_not_there_is_told_before_anything_is_sent(service: Served, analyze: Analyze) -> None:
    told = analyze("--model", "none")
    assert (told.returncode, told.stderr) == (USAGE, "error: expected one of the models sim, got 'none'\n")
    assert httpx2.get(f"{service.url}/v1/files").json()["data"] == []


def test_a_service_that_is_not_there_is_told_at_once(film: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    asked = vidray("analyze", str(film), "--server", nobody, "--out", str(film.parent / "out"))
    told = subprocess.run(asked, env=ENVIRONMENT, capture_output=True, text=True, timeout=20, check=False)
    assert (told.returncode, told.stderr) == (
        FAILED,
        f"error: expected a Vidray service at {nobody}, got ConnectError\n",
    )


@pytest.mark.parametrize(
    "listed", ['{"data": [{"id": "llama", "object": "model"}]}', '{"data": [1]}', '{"data": []}', "{}"]
)
def test_a_service_of_another_kind_is_one_line(listed: str) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(listed.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{other.server_port}"
        with ServiceClient(url) as client, pytest.raises(ServiceFailed, match=f"service at {url}, got another one"):
            _model(client, None)


def test_a_service_without_a_model_that_sees_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {"data": [{"id": "extractive", "kind": "chat"}]}
    monkeypatch.setattr(ServiceClient, "get", lambda self, path: listed)
    with (
        ServiceClient("http://x") as client,
        pytest.raises(ServiceFailed, match="a model that sees at http://x, got none"),
    ):
        _model(client, None)


def test_the_same_command_asks_the_new_default_model_once_there_is_one(service: Served, analyze: Analyze) -> None:
    assert "described by sim " in analyze().stdout
    service.stop()
    service.models = (replace(SIM, info=replace(SIM.info, name="other")), SIM)
    service.start()
    done = analyze()
    assert (done.returncode, done.stderr) == (DONE, "")
    assert "described by other " in done.stdout


def test_an_analysis_that_was_removed_is_made_anew(service: Served, analyze: Analyze) -> None:
    assert analyze().returncode == DONE
    [first] = analyses(service)
    httpx2.delete(f"{service.url}/v1/analyses/{first}").raise_for_status()
    assert analyze().returncode == DONE
    [second] = analyses(service)
    assert second != first


def test_a_file_that_was_removed_is_sent_again(service: Served, analyze: Analyze) -> None:
    assert analyze().returncode == DONE
    for kind in ("analyses", "files"):
        [one] = httpx2.get(f"{service.url}/v1/{kind}").json()["data"]
        httpx2.delete(f"{service.url}/v1/{kind}/{one['id']}").raise_for_status()
    done = analyze()
    assert (done.returncode, done.stderr) == (DONE, "")
    assert len(httpx2.get(f"{service.url}/v1/files").json()["data"]) == 1
