"""The running app on a Ray cluster: find it, or start a local Ray and deploy it, and take down what was started."""

import contextlib
import copy
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray import serve
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from deployments.errors import InvalidConfig, ReplicaLost
from deployments.settings import APP_NAME
from pipelines.ray_console import quiet_ray_console
from pipelines.rows import leave_ray
from serve_app.ports import why_taken
from serve_app.processes import end_processes, with_descendants
from serve_app.settings import GATEWAY

DEPLOY_DEADLINE_S = 300.0
_POLL_S = 0.1
_ANSWER_S = 5.0
_RAY_ENVIRONMENT = {
    # Serve writes its logs into files of the session; a second copy on a stderr that nobody sees costs as much.
    "RAY_SERVE_LOG_TO_STDERR": "0",
    # Nothing of ours blocks its event loop, so that routing needs no thread of its own: a call costs less without.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Serve's proxy, a process of Ray's, holds whole request bodies. With a heap per thread it would keep most of them,
    # and by default glibc keeps blocks up to the size of the largest one freed: this is `deployments/native_heap.py`
    # for processes that are not ours.
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**20),
    # A dead proxy answers nobody until the controller misses it: by default only after half a minute.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
}
"""What the processes of a Ray that is started here find in their environment, unless it says otherwise."""


@dataclass(frozen=True, slots=True)
class LocalApp:
    """Where the app answers: `api_url` is None when it was started without HTTP."""

    api_url: str | None
    dashboard_url: str
    ray_address: str


@contextlib.contextmanager
def local_app(config: dict[str, Any], *, http: bool, gpus: int | None = None) -> Iterator[LocalApp]:
    """Start a Ray on this machine, deploy the config on it, and stop both at the end.

    `gpus` is how many GPUs Ray is to count, None: those that it finds.
    After an error or Ctrl-C Ray ends at once and takes the app with it; else the replicas end in order before that.
    Raises InvalidConfig before all that when HTTP cannot be served at the config's address, ReplicaLost when the app
    does not come up within DEPLOY_DEADLINE_S.
    """
    options = config.get("http_options") or {}
    host, port = options.get("host", "127.0.0.1"), options.get("port", 8000)
    if http:
        _require_free(host, port)
    with _connection("local", include_dashboard=True, num_gpus=gpus) as dashboard_url:
        deploy(ServeSubmissionClient(dashboard_url), config, http=http)
        api_url = f"http://{host}:{port}" if http else None
        yield LocalApp(api_url, dashboard_url, ray.get_runtime_context().gcs_address)
        serve.shutdown()


def _require_free(host: str, port: int) -> None:
    """Raise InvalidConfig where nobody can listen: Serve would only say so by not coming up."""
    if reason := why_taken(host, port):
        raise InvalidConfig(f"http_options must name a free address, got {host}:{port}: {reason}")


def drain_gateways(deadline_s: float) -> int:
    """Have every gateway be ready no more and end its requests, while Serve's proxy still carries them to the clients.

    Returns how many requests are still in flight after `deadline_s`. Raises ReplicaLost when a gateway does not answer.
    """
    try:
        gateways = serve.get_deployment_handle(GATEWAY, APP_NAME)
        return sum(gateways.broadcast("drain", deadline_s).results(timeout_s=deadline_s + _ANSWER_S))
    except (RayError, RayServeException, TimeoutError) as error:
        raise ReplicaLost(f"expected every gateway to end its requests, got {_last_line(str(error))}") from error


@contextlib.contextmanager
def connected_app(address: str) -> Iterator[None]:
    """Connect to the Ray at `address` and leave it as it is. Raises ReplicaLost when none answers."""
    with _connection(address):
        yield


@contextlib.contextmanager
def _connection(address: str, **options: Any) -> Iterator[str]:
    quiet_ray_console()
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    others = psutil.Process().children()
    try:
        try:
            context = ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            hint = "" if os.environ.get("RAY_AUTH_MODE") else "; one that asks for a token needs RAY_AUTH_MODE=token"
            raise ReplicaLost(f"expected a Ray cluster at {address}, got {_last_line(str(error))}{hint}") from error
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler of SIGTERM takes Ray away under the feet of whoever uses it.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        yield f"http://{context.dashboard_url}"
    finally:
        started = with_descendants(one for one in psutil.Process().children() if one not in others)
        try:
            leave_ray()
        finally:
            end_processes(started)


def deploy(serve_api: ServeSubmissionClient, config: dict[str, Any], *, http: bool) -> None:
    """Hand the config to Serve's REST API, as `serve deploy` does, and wait until the app runs."""
    config = copy.deepcopy(config)
    if not http:
        config["proxy_location"] = "Disabled"
    try:
        serve_api.deploy_applications(config)
    except RuntimeError as error:
        raise ReplicaLost(f"Serve must accept the config, got {_last_line(str(error))}") from error
    give_up_s = time.monotonic() + DEPLOY_DEADLINE_S
    while time.monotonic() < give_up_s:
        status = _app_status(serve_api)
        if status and status["status"] == "RUNNING":
            return
        if status and status["status"] == "DEPLOY_FAILED":
            raise ReplicaLost(f"the app must come up, got {_last_line(status['message'])}")
        time.sleep(_POLL_S)
    raise ReplicaLost(f"the app must be running within {DEPLOY_DEADLINE_S:g} s, got no running app")


def _app_status(serve_api: ServeSubmissionClient) -> dict[str, Any] | None:
    applications: dict[str, dict[str, Any]] = serve_api.get_serve_details()["applications"]
    return applications.get(APP_NAME)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
