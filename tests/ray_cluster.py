"""One Ray for the whole session: logical CPUs and GPUs, simulated engines, real everything else."""

import contextlib
import logging
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.serve.exceptions import RayServeException

from deployments.vision.demo.sample import SCENES, write_sample
from pipelines.ray_console import quiet_ray_console
from serve_app.cluster_app import deploy
from serve_app.config_check import check_config

ROOT = Path(__file__).resolve().parents[1]
STORAGE = tempfile.TemporaryDirectory(prefix="vidray-tests-")
"""Where the apps of a test session keep files; removed when the session ends."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def simulated_config(port: int = 8000, **simulated: Any) -> dict[str, Any]:
    """Return a config with one simulated model `sim`; the keyword arguments are its cost model's."""
    model = {"engine": "simulated", "max_frames": 64, "simulated": {"frame_s": 0.001} | simulated}
    return {
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {
                "name": "vidray",
                "route_prefix": "/",
                "import_path": "serve_app.app:build_app",
                "args": {"default_model": "sim", "models": {"sim": model}, "storage": {"target": STORAGE.name}},
                "deployments": [
                    {"name": "gateway", "ray_actor_options": {"num_cpus": 0}},
                    {"name": "runner", "ray_actor_options": {"num_cpus": 0}},
                    {"name": "vision-sim", "ray_actor_options": {"num_cpus": 0}, "health_check_period_s": 1},
                ],
            }
        ],
    }


@dataclass(frozen=True)
class Cluster:
    address: str
    dashboard_url: str
    http_port: int

    def deploy(self, config: dict[str, Any]) -> None:
        """Make the app what the config says and wait until it runs."""
        check_config(config)
        config = config | {"http_options": {"host": "127.0.0.1", "port": self.http_port}}
        deploy(ServeSubmissionClient(self.dashboard_url), config, http=True)

    def restart_app(self, config: dict[str, Any]) -> None:
        """Like `deploy`, but with fresh replicas."""
        with contextlib.suppress(RayServeException):  # the session's first app finds no Serve
            serve.delete("vidray")
        self.deploy(config)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    quiet_ray_console()
    context: Any = ray.init(
        address="local",
        num_cpus=4,
        num_gpus=4,
        include_dashboard=True,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield Cluster(context.address_info["gcs_address"], f"http://{context.dashboard_url}", free_port())
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute of six drawn scenes, 640x360 at 25 frames a second."""
    path = tmp_path_factory.mktemp("sample") / "sample.mp4"
    write_sample(path, SCENES[:6])
    return path


def vidray(*arguments: str) -> list[str]:
    """Return the argument list of the `vidray` command of this environment."""
    return [str(Path(sys.executable).parent / "vidray"), *arguments]


def at_a_terminal(command: list[str], **options: Any) -> "subprocess.Popen[str]":
    """Start a command that hears Ctrl-C, which shells keep from what they start in the background, as tests may be."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **options,
    )
