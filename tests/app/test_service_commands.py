"""The commands that speak to a service: against the real app on a real port, with a made-up model."""

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from pipelines.command_line import DONE, FAILED, PARTIAL, USAGE, run_command
from serve_app import watching
from serve_app.cli import app
from serve_app.service_client import ServiceClient
from serve_app.terminal import EventWatcher, plain
from tests import videos
from tests.app.served import SIM, Served
from tests.ray_cluster import free_port

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("decoded_in_no_time")]


class Service(Served):
    """`analyse_cats` has a video of six seconds described in three clips."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.video = videos.write_video(folder / "cats\x1b[31m.mp4", frames=150)

    def analyse_cats(self) -> str:
        return self.analyse(self.video, clip_duration_s=2)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    made = Service(tmp_path)
    monkeypatch.setenv("VIDRAY_SERVER", made.url)
    yield made
    made.stop()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def vidray(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["vidray", *arguments])
        code = run_command(app)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_models_are_listed_with_their_state(service: Service, vidray: Run) -> None:
    code, out, err = vidray("models")
    assert (code, err) == (DONE, "")
    assert re.search(rf"^{SIM.info.name} +vision +ready", out, re.MULTILINE)
    code, out, _ = vidray("models", "--json")
    assert SIM.info.name in [model["id"] for model in json.loads(out)["data"]]


def test_an_analysis_is_watched_to_its_end_and_its_timeline_printed(service: Service, vidray: Run) -> None:
    analysis = service.analyse_cats()
    code, out, err = vidray("watch", analysis)
    assert (code, err) == (DONE, "")
    assert "  00:00 – 00:02  0\n  00:02 – 00:04  2\n  00:04 – 00:06  4\n" in out
    assert "\x1b" not in out, "the file's name obeys no terminal"
    assert vidray("watch", analysis)[:2] == (code, out), "again, when it is done"
    shown = json.loads(vidray("watch", analysis, "--json")[1])
    assert [clip["text"] for clip in shown["clips"]] == ["0", "2", "4"]


def test_a_watcher_comes_back_to_a_service_that_was_started_again(service: Service, vidray: Run) -> None:
    service.hold()
    analysis = service.analyse_cats()

    def restart() -> None:
        service.let(1)
        time.sleep(1.0)
        service.stop()
        service.start()

    restarting = threading.Thread(target=restart)
    restarting.start()
    try:
        code, out, _ = vidray("watch", analysis)
    finally:
        restarting.join()
    assert code == DONE
    assert "  00:00 – 00:02  0\n  00:02 – 00:04  2\n  00:04 – 00:06  4\n" in out


def test_a_watcher_outlasts_a_restart_between_the_last_event_and_the_result(
    service: Service, vidray: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysis = service.analyse_cats()
    told = ServiceClient.events
    starting = threading.Timer(0.5, service.start)

    def told_then_gone(client: ServiceClient, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from told(client, path)
        service.stop()
        starting.start()

    monkeypatch.setattr(ServiceClient, "events", told_then_gone)
    try:
        code, out, err = vidray("watch", analysis)
    finally:
        starting.join()
    assert (code, err) == (DONE, "")
    assert "  00:04 – 00:06  4\n" in out


def test_a_watcher_shows_the_service_s_eta(service: Service, vidray: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    etas: list[float | None] = []
    show = EventWatcher.progress

    def shown(watcher: EventWatcher, analysis: dict[str, Any]) -> None:
        show(watcher, analysis)
        etas.append(watcher._left_s())
        if len(etas) < 20:
            time.sleep(0.6)  # so that clips end at moments of their own, which make a pace
            service.let(1)

    monkeypatch.setattr(EventWatcher, "progress", shown)
    monkeypatch.setattr(watching, "_LOOK_EVERY_S", 0.0)
    service.hold()
    analysis = service.analyse(service.video, clip_duration_s=1)
    assert vidray("watch", analysis)[0] == DONE
    assert etas[0] is None, "before a clip is described nobody knows"
    assert any(eta is not None for eta in etas)


def test_a_failed_clip_makes_another_exit_code(service: Service, vidray: Run) -> None:
    service.services.model.bad = {2.0}
    code, out, _ = vidray("watch", service.analyse_cats())
    assert code == PARTIAL
    assert "[not described, clip_rejected] not this one" in out


def test_the_status_of_a_service_and_of_an_analysis(service: Service, vidray: Run) -> None:
    analysis = service.analyse_cats()
    vidray("watch", analysis)
    code, out, err = vidray("status")
    assert (code, err) == (DONE, "")
    assert re.match(r"Vidray \d+\.\d+\.\d+\S*: 0 running, 0 queued; ", out)
    assert re.search(rf"^{analysis} +completed +100%", out, re.MULTILINE)
    assert "\x1b" not in out
    code, out, _ = vidray("status", analysis)
    assert "\ncompleted: 3 of 3 clips\n" in out
    assert json.loads(vidray("status", analysis, "--json")[1])["id"] == analysis
    assert json.loads(vidray("status", "--json")[1])["analyses"]["data"][0]["id"] == analysis


@pytest.mark.parametrize(
    ("form", "begins"), [("md", "# "), ("vtt", "WEBVTT\n"), ("srt", "1\n"), ("csv", "index,"), ("json", "{")]
)
def test_a_result_is_exported(service: Service, vidray: Run, tmp_path: Path, form: str, begins: str) -> None:
    analysis = service.analyse_cats()
    vidray("watch", analysis)
    code, out, _ = vidray("export", analysis, "--format", form)
    assert code == DONE
    assert out.startswith(begins)
    assert vidray("export", analysis, "--format", form, "--out", str(tmp_path / "result")) == (DONE, "", "")
    assert (tmp_path / "result").read_bytes().decode() == out
    assert vidray("export", analysis, "--json")[1].startswith("{")
    code, _, err = vidray("export", analysis, "--out", str(tmp_path / "result" / "below"))
    assert code == USAGE
    assert "expected a file that can be written" in err


def test_a_question_is_answered_with_its_sources(service: Service, vidray: Run) -> None:
    analysis = service.analyse_cats()
    vidray("watch", analysis)
    code, out, err = vidray("chat", analysis, "What happens at 0:02?")
    assert code == DONE
    assert out.strip()
    assert re.fullmatch(r"sources: 00:0\d – 00:0\d.*\n", err), out
    answer = json.loads(vidray("chat", analysis, "What happens at 0:02?", "--json")[1])
    assert answer["choices"][0]["message"]["content"].strip() == out.strip()


def test_what_is_not_there_or_not_done_is_one_line(service: Service, vidray: Run) -> None:
    for command in (("status", "ana_none"), ("watch", "../models"), ("export", "ana_none"), ("chat", "ana_none", "?")):
        code, out, err = vidray(*command)
        assert (code, out) == (USAGE, "")
        assert re.fullmatch(r"error: .+\n", err)
    service.hold()
    analysis = service.analyse_cats()
    code, _, err = vidray("export", analysis)
    assert code == USAGE
    assert "error: " in err
    service.let(10)


def test_no_service_or_another_one_is_one_line(vidray: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for server, said in (
        (f"http://127.0.0.1:{free_port()}", "expected a Vidray service at http://127.0.0.1"),
        ("127.0.0.1:8000", "expected"),
        ("http://[", "expected"),
    ):
        code, out, err = vidray("status", "--server", server)
        assert (code in (FAILED, USAGE), out) == (True, "")
        assert err.startswith("error: ")
        assert said in err
        assert err.count("\n") == 1


def test_the_key_comes_from_the_environment(service: Service, vidray: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = service.analyse_cats()
    monkeypatch.setenv("VIDRAY_API_KEY", "ann viewer")
    code, _, err = vidray("status", analysis)
    assert code == USAGE, "another owner's"
    assert analysis in err


def test_text_that_terminals_obey_is_shown_as_such() -> None:
    assert plain("a\x1b[2Jb\rc\x07d\x9be\nf\tg") == "a\ufffd[2Jb\ufffdc\ufffdd\ufffde\nf\tg"


@pytest.mark.parametrize("ask", [("export", "--format", "md"), ("export", "--format", "csv"), ("watch", "--json")])
def test_an_answer_moves_no_cursor_but_is_whole_in_a_file(
    service: Service, vidray: Run, monkeypatch: pytest.MonkeyPatch, ask: tuple[str, ...]
) -> None:
    service.services.model.say = "\x9b{:g}!".format
    analysis = service.analyse_cats()
    service.ended(analysis)
    assert "\x9b2!" in vidray(ask[0], analysis, *ask[1:])[1]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown = vidray(ask[0], analysis, *ask[1:])[1]
    assert "\ufffd2!" in shown
    assert "\ufffd\n" not in shown, "lines end as a terminal's do"


def test_an_analysis_that_was_tried_again_is_watched_to_its_last_end(service: Service, vidray: Run) -> None:
    service.services.model.bad = {2.0}
    analysis = service.analyse_cats()
    service.ended(analysis)
    service.services.model.bad = set()
    service.hold()
    httpx2.post(f"{service.url}/v1/analyses/{analysis}/retry").raise_for_status()
    threading.Timer(0.5, service.let, (1,)).start()
    code, out, _ = vidray("watch", analysis)
    assert code == DONE
    assert "  00:02 – 00:04  2\n" in out
