"""`vidray doctor`: what it finds on this machine, and what it says of machines that lack something."""

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from deployments.errors import DecoderLost
from deployments.vision.qwen.hardware import Gpu
from pipelines.command_line import DONE, FAILED, run_command
from pipelines.sandbox import Sandbox
from serve_app import checks
from serve_app.checks import Finding, findings
from serve_app.cli import app
from tests.app.served import Served
from tests.ray_cluster import ROOT, free_port, vidray

pytestmark = pytest.mark.timeout(120)
CONFIG = ROOT / "serve_config.yaml"


@pytest.fixture
def without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes seconds and is not asked about."""
    monkeypatch.setattr(checks, "_decoders", lambda: iter(()))


def found(what: str, config: Path | None = CONFIG) -> Finding:
    [one] = [finding for finding in findings(config) if finding.what == what]
    return one


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["vidray", "doctor", *arguments])
    code = run_command(app)
    said = capsys.readouterr()
    assert said.err == ""
    return code, said.out


def test_this_machine_has_what_the_demo_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out = run(capsys, monkeypatch, "--config", str(CONFIG), "--json")
    told = {one["what"]: one for one in json.loads(out)}
    needed = ("Python", "machine", "PyTorch", "bitsandbytes", "pyav", "Ray", "config")
    assert {what: told[what]["state"] for what in needed} == dict.fromkeys(needed, "good")
    assert told["pyav"]["found"] == "decodes h264"
    assert "demo" in told["config"]["found"]
    assert code == (FAILED if any(one["state"] == "bad" for one in told.values()) else DONE)


@pytest.mark.usefixtures("without_decoding")
def test_what_is_missing_has_advice_and_the_command_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, out = run(capsys, monkeypatch, "--config", str(tmp_path / "none.yaml"))
    assert code == FAILED
    lines = out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("missing config"))
    assert "expected a readable config file" in lines[at]
    assert "serve_config.yaml" in lines[at + 1]


def test_a_library_that_does_not_load_is_one_line_with_advice(tmp_path: Path) -> None:
    (tmp_path / "av.py").write_text("raise ImportError('libavcodec.so.62: cannot open shared object file')\n")
    done = subprocess.run(
        vidray("doctor"),
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert done.stderr == (
        "error: expected the libraries that `make setup` installs, got libavcodec.so.62: cannot open shared object "
        "file: run it again\n"
    )


@pytest.mark.usefixtures("without_decoding")
def test_a_driver_without_a_build_for_it_is_the_build_s_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 580.65.06\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(checks, "gpus", list)
    gpu = found("GPU")
    assert (gpu.state, gpu.found) == ("bad", "driver 580.65.06, but PyTorch sees no GPU")
    assert "CUDA" in gpu.advice
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert found("GPU").found.startswith("driver that does not answer")


@pytest.mark.usefixtures("without_decoding")
@pytest.mark.parametrize(
    ("driver", "advice"),
    [
        ("550.54.15", "install driver 580 or newer, which CUDA 13 needs, or PyTorch's build for an older CUDA"),
        ("580.65.06", "see whether `nvidia-smi` lists a GPU, and CUDA_VISIBLE_DEVICES leaves it in sight"),
    ],
)
def test_a_driver_that_is_too_old_is_told_from_a_gpu_that_is_hidden(
    monkeypatch: pytest.MonkeyPatch, driver: str, advice: str
) -> None:
    monkeypatch.setattr(checks, "_driver", lambda: driver)
    monkeypatch.setattr(checks, "gpus", list)
    monkeypatch.setattr(checks, "cuda_version", lambda: (13, 0))
    assert found("GPU") == Finding("GPU", "bad", f"driver {driver}, but PyTorch sees no GPU", advice)


@pytest.mark.usefixtures("without_decoding")
def test_a_library_that_is_too_old_or_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["ray[serve]>=2.60", "av>=16", "no-such-library>=1", "flash-attn>=2.7; extra == 'gpu'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda distribution: asked)
    real = importlib.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.9.3" if name == "ray" else real(name))
    told = found("Ray")
    assert (told.state, told.found) == (
        "bad",
        "ray 2.9.3 where >=2.60 is needed, no-such-library none where >=1 is needed",
    )


@pytest.mark.usefixtures("without_decoding")
def test_a_new_gpu_without_flash_attention_gets_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "gpus", lambda: [Gpu("A100", 40 * 2**30, (8, 0)), Gpu("T4", 15 * 2**30, (7, 5))])
    monkeypatch.setattr(checks, "version_of", lambda package, distribution: None)
    told = list(findings(CONFIG))
    assert [one.found for one in told if one.what == "GPU"] == [
        "A100, 40.0 GiB, compute capability 8.0",
        "T4, 15.0 GiB, compute capability 7.5",
    ]
    assert [one.advice for one in told if one.what == "flash-attn"] == [
        f"all works without; `{checks.FLASH_COMMAND}` makes long clips quicker"
    ]
    assert f"`{checks.FLASH_COMMAND}`" in (ROOT / "README.md").read_text()
    assert [one.state for one in told if one.what == "bitsandbytes"] == ["bad"]


def test_a_decoder_that_does_not_work_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise DecoderLost("no decoder process could be started")

    monkeypatch.setattr(Sandbox, "probe", lost)
    assert found("pyav") == Finding(
        "pyav", "bad", "no decoder process could be started", "run `make setup` again; `--decoder pyav` is the default"
    )
    assert found("decord").state == "note"


def test_a_temporary_folder_that_takes_nothing_is_told_and_the_rest_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(path: Path, specs: object, **_: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(checks, "write_scenes", full)
    pyav = found("pyav")
    assert (pyav.state, pyav.advice) == ("bad", "make room, or `make setup` again")
    assert "No space left on device" in pyav.found

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.gettempdir", none)
    assert (found("temp").state, found("config").state) == ("bad", "good")


@pytest.mark.usefixtures("without_decoding")
def test_little_room_gets_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**30))
    assert (found("temp").state, found("/dev/shm").state) == ("note", "note")
    assert "--shm-size" in found("/dev/shm").advice


@pytest.mark.usefixtures("without_decoding")
def test_a_port_is_free_or_taken_or_vidray_s_own(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"

    def listening_at(port: int) -> Finding:
        config.write_text(CONFIG.read_text().replace("port: 8000", f"port: {port}"))
        return found("API port", config)

    assert listening_at(free := free_port()) == Finding("API port", "good", f"127.0.0.1:{free} is free")
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = listening_at(other.getsockname()[1])
        assert (taken.state, taken.advice) == ("bad", "end what listens there, or set http_options.port")
    service = Served(tmp_path)
    try:
        ours = listening_at(int(service.url.rpartition(":")[2]))
    finally:
        service.stop()
    assert (ours.state, "a Vidray service runs at" in ours.found) == ("good", True)
