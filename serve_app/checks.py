"""What `vidray doctor` looks at: each check says what it found and, where that is not good, what to do."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import psutil
from packaging.requirements import Requirement

from deployments.errors import AppError
from deployments.vision.demo.layout import Mix, sample_spec
from deployments.vision.demo.video import write_scenes
from deployments.vision.qwen.hardware import cuda_version, gpus, torch_build, version_of
from pipelines.plan import SamplingOptions, plan_clips
from pipelines.sandbox import Sandbox
from pipelines.video import DecoderName
from serve_app.alerts import STORAGE_LOW_BYTES
from serve_app.config import default_config_path
from serve_app.config_check import load_config
from serve_app.ports import why_taken
from serve_app.service_client import ServiceClient
from serve_app.settings import AppArgs

State = Literal["good", "note", "bad"]
LEAST_PYTHON = (3, 11)
LEAST_SHARED_BYTES = 2 * 2**30
DASHBOARD_PORT = 8265
_ANSWER_S = 3.0
_LEAST_DRIVERS = {11: 450, 12: 525, 13: 580}
"""By CUDA's major version, from docs.nvidia.com/deploy/cuda-compatibility (minor version compatibility)."""
_FLASH_SINCE = (8, 0)
"""Compute capability from which on flash-attn 2 runs: Ampere."""
FLASH_COMMAND = "pip install --no-build-isolation -c constraints.txt -e '.[gpu]'"
"""flash-attn's build imports torch, which pip's isolated builds do not have."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`good`; `note`: it works, with less; `bad`: something will not work."""

    what: str
    state: State
    found: str
    advice: str = ""


def findings(config: Path | None) -> Iterator[Finding]:
    """Look at everything, the quick things first."""
    yield _python()
    yield _memory()
    yield from _gpu()
    yield _libraries()
    yield _temp()
    yield from _decoders()
    content, args, finding = _config(config)
    yield finding
    yield _shared_memory()
    if args is not None:
        if "://" not in args.storage.target:
            yield _disk("storage", Path(args.storage.target).expanduser())
        options = content.get("http_options") or {}
        yield _port("API port", str(options.get("host", "127.0.0.1")), int(options.get("port", 8000)))
    yield _port("dashboard", "127.0.0.1", DASHBOARD_PORT)


def _python() -> Finding:
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < LEAST_PYTHON:
        return Finding("Python", "bad", found, "install Python 3.11 or newer, then `make setup PYTHON=python3.11`")
    if platform.system() != "Linux":
        return Finding("Python", "note", found, "Vidray is built for and tested on Linux")
    return Finding("Python", "good", found)


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    return Finding(
        "machine", "good", f"{os.cpu_count()} CPU cores, {_gib(memory.available)} of {_gib(memory.total)} free"
    )


def _gpu() -> Iterator[Finding]:
    yield Finding("PyTorch", "good", torch_build())
    driver, devices = _driver(), gpus()
    for device in devices:
        major, minor = device.capability
        yield Finding("GPU", "good", f"{device.name}, {_gib(device.memory_bytes)}, compute capability {major}.{minor}")
    if not devices and driver:
        yield Finding("GPU", "bad", f"driver {driver}, but PyTorch sees no GPU", _why_no_gpu(driver))
    elif not devices:
        yield Finding(
            "GPU",
            "note",
            "none, and no NVIDIA driver",
            "the demo model runs without; Qwen2.5-VL on real footage needs a GPU to be quick",
        )
    flash = version_of("flash_attn", "flash-attn")
    if flash:
        yield Finding("flash-attn", "good", flash)
    elif any(device.capability >= _FLASH_SINCE for device in devices):
        yield Finding(
            "flash-attn", "note", "not installed", f"all works without; `{FLASH_COMMAND}` makes long clips quicker"
        )
    else:
        yield Finding("flash-attn", "note", "not installed", "of use only on a GPU of compute capability 8.0 or newer")
    narrow = version_of("bitsandbytes", "bitsandbytes")
    if narrow:
        yield Finding("bitsandbytes", "good", f"{narrow}: weights in 4 and 8 bits")
    else:
        yield Finding("bitsandbytes", "bad", "not installed", "run `make setup` again")


def _why_no_gpu(driver: str) -> str:
    """Return what to do where there is a driver, and PyTorch sees no GPU."""
    cuda = cuda_version()
    if cuda is None:
        return "install PyTorch's build for CUDA (pytorch.org/get-started) in place of the one for CPUs"
    least, have = _LEAST_DRIVERS.get(cuda[0]), driver.partition(".")[0]
    if least is not None and have.isdecimal() and int(have) < least:
        return f"install driver {least} or newer, which CUDA {cuda[0]} needs, or PyTorch's build for an older CUDA"
    return "see whether `nvidia-smi` lists a GPU, and CUDA_VISIBLE_DEVICES leaves it in sight"


def _driver() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return "that does not answer"
    return told[0] if told else None


def _decoders() -> Iterator[Finding]:
    """Encode a second of video, and read it back with each decoder, in the process in which Vidray decodes."""
    with contextlib.ExitStack() as stack:
        try:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "drawn.mp4"
            _draw_second(path)
        except Exception as error:  # a disk without room, a library without an encoder: whatever it is, it is told
            said = " ".join(str(error).split())
            yield Finding("pyav", "bad", f"cannot write a second of H.264: {said}", "make room, or `make setup` again")
            return
        sandbox = stack.enter_context(Sandbox())
        for decoder in get_args(DecoderName):
            try:
                video = sandbox.probe(path)
                clips = plan_clips(video, SamplingOptions(frames_per_clip=4), max_frames=4)
                [clip] = list(sandbox.decode(path, clips, (video.width, video.height), decoder))
                if isinstance(clip, AppError):
                    raise clip
                yield Finding(decoder, "good", f"decodes {video.codec}")
            except AppError as error:
                needed: State = "bad" if decoder == "pyav" else "note"
                yield Finding(decoder, needed, error.message, "run `make setup` again; `--decoder pyav` is the default")


def _draw_second(path: Path) -> None:
    import numpy as np

    mix = Mix((1.0, 0.0, 0.0), clock=0.0, events=0.0, cut=0.0)
    spec = sample_spec(np.random.default_rng(0), duration_s=1.0, aspect=16 / 9, mix=mix, combinations="all")
    write_scenes(path, [spec], fps=8, size=(160, 90))


def _libraries() -> Finding:
    """Hold what is installed to what Vidray asks for."""
    wrong = []
    for line in importlib.metadata.requires("vidray") or ():
        asked = Requirement(line)
        if asked.marker is not None and not asked.marker.evaluate({"extra": ""}):
            continue
        try:
            there = importlib.metadata.version(asked.name)
        except importlib.metadata.PackageNotFoundError:
            there = "none"
        if there == "none" or not asked.specifier.contains(there, prereleases=True):
            wrong.append(f"{asked.name} {there} where {asked.specifier} is needed")
    if wrong:
        return Finding("Ray", "bad", ", ".join(wrong), "run `make setup` again")
    return Finding("Ray", "good", f"Ray {importlib.metadata.version('ray')}, and every other library as needed")


def _config(path: Path | None) -> tuple[dict[str, Any], AppArgs | None, Finding]:
    try:
        path = path or default_config_path()
        content, args = load_config(path)
    except AppError as error:
        return {}, None, Finding("config", "bad", error.message, "start from the repository's serve_config.yaml")
    return content, args, Finding("config", "good", f"{path}: models {', '.join(args.models)}")


def _temp() -> Finding:
    try:
        return _disk("temp", Path(tempfile.gettempdir()))
    except FileNotFoundError as error:  # it tries them all
        return Finding("temp", "bad", str(error), "make room in /tmp, or set TMPDIR to a folder that can be written")


def _disk(what: str, folder: Path) -> Finding:
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free_bytes = shutil.disk_usage(there).free
    found = f"{_gib(free_bytes)} free in {folder}"
    if not os.access(there, os.W_OK):
        return Finding(
            what, "bad", f"{there} cannot be written", "let this user write there, or configure another place"
        )
    if free_bytes < STORAGE_LOW_BYTES:
        return Finding(what, "note", found, f"{_gib(STORAGE_LOW_BYTES)} or more leave room for videos and Ray's logs")
    return Finding(what, "good", found)


def _shared_memory() -> Finding:
    shared = Path("/dev/shm")
    if not shared.exists():
        return Finding("/dev/shm", "note", "none", "Ray keeps frames on disk without it, which is slower")
    free_bytes = shutil.disk_usage(shared).free
    if free_bytes < LEAST_SHARED_BYTES:
        return Finding(
            "/dev/shm", "note", f"{_gib(free_bytes)} free", "give a container more: `docker run --shm-size=8g`"
        )
    return Finding("/dev/shm", "good", f"{_gib(free_bytes)} free")


def _port(what: str, host: str, port: int) -> Finding:
    reason = why_taken(host, port)
    if reason is None:
        return Finding(what, "good", f"{host}:{port} is free")
    if what != "API port":
        advice = "a Ray that runs already; `vidray serve` takes another"
        return Finding(what, "note", f"{host}:{port}: {reason}", advice)
    if _answers(f"http://{host}:{port}"):
        return Finding(what, "good", f"a Vidray service runs at {host}:{port}")
    return Finding(what, "bad", f"{host}:{port}: {reason}", "end what listens there, or set http_options.port")


def _answers(url: str) -> bool:
    try:
        with ServiceClient(url, answer_s=_ANSWER_S) as service:
            return service.get("/livez").get("status") == "ok"
    except AppError:
        return False


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
