"""What the `vidray` command refuses: one line on standard error, the right exit code, nothing left behind."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.contracts import GenerationOptions
from pipelines.command_line import FAILED, USAGE, analysis_options, run_command
from pipelines.events import ClipEvent
from pipelines.plan import SamplingOptions
from serve_app.cli import app
from serve_app.terminal import print_timeline
from tests import videos
from tests.ray_cluster import free_port, vidray
from tests.unit.pipelines.test_results import described, result, with_events, with_invalid_events


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    videos.write_video(tmp_path / "good.mp4", frames=50)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """Run the command in this process; return its exit code and its one line of complaint."""
    before = sorted(Path().rglob("*"))
    monkeypatch.setattr(sys, "argv", ["vidray", *arguments])
    code = run_command(app)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err
    assert sorted(Path().rglob("*")) == before, "something was left behind"
    return code, said.err.removeprefix("error: ").strip()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Missing command"),
        (("analyse", "good.mp4"), "No such command 'analyse'"),
        (("analyze",), "Missing argument 'video'"),
        (("analyze", "good.mp4", "--fsp", "1"), "No such option: --fsp"),
        (("analyze", "none.mp4"), "expected a video file, got no such file: none.mp4"),
        (("analyze", "."), "expected a video file, got a directory: ."),
        (("analyze", "good.mp4", "--fps", "quick"), "--fps"),
        (("analyze", "good.mp4", "--fps", "0"), "fps: input should be greater than 0, got 0"),
        (("analyze", "good.mp4", "--fps", "nan"), "fps: input should be"),
        (("analyze", "good.mp4", "--clip-duration-s", "-1"), "clip_duration_s: input should be greater than 0, got -1"),
        (
            ("analyze", "good.mp4", "--clip-overlap-s", "10"),
            "clip_overlap_s must be below clip_duration_s (10), got 10",
        ),
        (("analyze", "good.mp4", "--start-s", "1", "--end-s", "1"), "end_s must be above start_s (1), got 1"),
        (("analyze", "good.mp4", "--start-s", "99"), "start_s must be below the video's duration (2.000), got 99"),
        (("analyze", "good.mp4", "--fps", "1", "--frames-per-clip", "2"), "expected fps or frames_per_clip, got both"),
        (("analyze", "good.mp4", "--fps", "25"), "a clip must sample at most 16 frames for this model, got 250"),
        (("analyze", "good.mp4", "--per", "scene"), "per: input should be 'clip' or 'frame', got 'scene'"),
        (("analyze", "good.mp4", "--max-tokens", "0"), "max_tokens: input should be greater than or equal to 1, got 0"),
        (("analyze", "good.mp4", "--temperature", "3"), "temperature: input should be less than or equal to 2, got 3"),
        (("analyze", "good.mp4", "--decoder", "vlc"), "decoder must be pyav or decord, got 'vlc'"),
        (("analyze", "good.mp4", "--prompt", " "), "prompt must say something, got ' '"),
        (("analyze", "good.mp4", "--event", "a\nb"), "a kind of event must be printable text"),
        (("analyze", "good.mp4", *("--event", "a") * 2), "events must name each kind once, got 'a' again"),
        (("analyze", "good.mp4", "--model", "gpt"), "expected one of the models demo, got 'gpt'"),
        (("analyze", "good.mp4", "--config", "none.yaml"), "expected a readable config file, got No such file"),
        (("analyze", "good.mp4", "--out", "good.mp4"), "output must be a directory or a URL, got a file: good.mp4"),
        (("analyze", "good.mp4", "--out", "bogus://x"), "output must be a writable directory or an object store's URL"),
        (("serve", "--config", "none.yaml"), "expected a readable config file, got No such file"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    code, line = refused(capsys, monkeypatch, *arguments)
    assert said in line
    assert code == USAGE


def test_a_port_that_is_taken_is_one_line_before_ray_starts(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = {
            "http_options": {"port": port},
            "applications": [
                {
                    "name": "vidray",
                    "import_path": "serve_app.app:build_app",
                    "args": {"default_model": "demo", "models": {"demo": {}}},
                }
            ],
        }
        (folder / "serve_config.yaml").write_text(yaml.safe_dump(config))
        monkeypatch.setattr(sys, "argv", ["vidray", "serve"])
        code = run_command(app)
    assert code == USAGE
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(f"error: http_options must name a free address, got 127.0.0.1:{port}: ")
    assert len(said) == 2, "and the line that says what is started"


def test_files_of_somebody_elses_are_not_overwritten(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "notes").mkdir()
    (folder / "notes" / "timeline.md").write_text("mine")
    code, line = refused(capsys, monkeypatch, "analyze", "good.mp4", "--out", "notes")
    assert line == "expected an output without files of the result's names, got timeline.md"
    assert code == USAGE
    assert (folder / "notes" / "timeline.md").read_text() == "mine"


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("This is a letter, not a film.\n" * 50)


def sound(path: Path) -> None:
    videos.write_sound(path)


def cut_head(path: Path) -> None:
    videos.truncated(path.with_name("good.mp4"), 0.3, path)


def huge(path: Path) -> None:
    videos.write_video(path, size=(8192, 2064), frames=1, options={"preset": "ultrafast", "crf": "45"})


@pytest.mark.parametrize("spoil", [empty, text, sound, cut_head, huge])
def test_a_file_that_is_no_video_is_one_line_and_exit_code_1(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, spoil: object
) -> None:
    assert callable(spoil)
    spoil(folder / "bad.mp4")
    code, line = refused(capsys, monkeypatch, "analyze", "bad.mp4")
    assert "expected" in line or "must" in line
    assert "got" in line
    assert "bad.mp4" in line or "8192x2064" in line
    assert str(folder) not in line
    assert code == FAILED


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"modles": {}}, "got unknown key args.modles"),
        ({"models": {"demo": {"max_frames": 0}}}, "models.demo.max_frames: input should be greater than or equal to 1"),
        ({"models": {"demo": {"checkpont": "x"}}}, "got unknown key args.models.demo.checkpont"),
        ({"default_model": "other"}, "default_model must be one of demo, got 'other'"),
        ({"decode_cpus": 0}, "decode_cpus: input should be greater than 0, got 0"),
        ({"sources": {"allowed_directories": ["films"]}}, "expected absolute paths, got 'films'"),
        ({"sources": {"allowed_hosts": ["https://a.example"]}}, "sources.allowed_hosts.0: string should match pattern"),
    ],
)
def test_a_wrong_config_is_one_line_and_exit_code_2(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, object],
    said: str,
) -> None:
    arguments = {"default_model": "demo", "models": {"demo": {}}} | change
    config = {"applications": [{"name": "vidray", "import_path": "serve_app.app:build_app", "args": arguments}]}
    (folder / "serve_config.yaml").write_text(yaml.safe_dump(config))
    code, line = refused(capsys, monkeypatch, "analyze", "good.mp4")
    assert said in line
    assert code == USAGE


def test_events_are_asked_for_by_the_options_and_printed_below_the_timeline(capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, Any] = {
        name: field.default for name, field in (SamplingOptions.model_fields | GenerationOptions.model_fields).items()
    }
    asked = analysis_options(given | {"prompt": "What?", "decoder": "pyav", "event": ["fall", "rise"]})
    assert asked.event_kinds == asked.describe_options().event_kinds == ("fall", "rise")
    made = result(
        with_events(described(0, 0, 10), ClipEvent("fall", "a cat", 2.5)),
        with_invalid_events(described(1, 10, 20)),
        event_kinds=asked.event_kinds,
    )
    print_timeline(made, "out")
    said = capsys.readouterr().out
    assert "\nevents:\n  00:02 fall: a cat\n  [not valid at 00:10 – 00:20] expected a list, got none\n" in said


def test_commands_that_need_no_ray_do_not_wait_for_its_import() -> None:
    """It takes seconds: `vidray models` and every refusal would wait for nothing."""
    script = (
        "import sys, serve_app.cli; print([name for name in ('ray', 'torch', 'transformers') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout == "[]\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_and_options(shell: str) -> None:
    """As the script that `vidray --install-completion` installs asks for them."""
    shown = subprocess.run(
        vidray("--show-completion", shell), capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "_VIDRAY_COMPLETE" in shown
    asked = {"_VIDRAY_COMPLETE": "complete_bash", "COMP_WORDS": "vidray ana", "COMP_CWORD": "1"}
    done = subprocess.run(vidray(), env=os.environ | asked, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["analyze"]
    asked |= {"COMP_WORDS": "vidray analyze --ser", "COMP_CWORD": "2"}
    done = subprocess.run(vidray(), env=os.environ | asked, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["--server"]


def test_a_job_is_refused_before_it_is_sent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Set here and so undone here: `submit` sets it for its process, whose Ray later tests need otherwise.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    for arguments, said in (
        (("submit",), "Missing option '--input'"),
        (("submit", "--input", "*.mp4", "--output", "out", "--fps", "0"), "fps: input should be greater than 0"),
        (("submit", "--input", "*.mp4", "--output", "out", "--fsp", "1"), "No such option"),
    ):
        code, told = refused(capsys, monkeypatch, *arguments)
        assert (code, said in told) == (USAGE, True), told
    nobody = f"http://127.0.0.1:{free_port()}"
    # In a process of its own: Ray settles how it proves who it is once for each, and later tests need it otherwise.
    asked = vidray("submit", "--input", "a", "--output", "b", "--address", nobody)
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert done.stderr.startswith(f"error: expected a Ray cluster's dashboard at {nobody}, got ")
