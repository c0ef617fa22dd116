"""The running app on a Ray cluster: find it, or start a local Ray and deploy it, and take down what was started."""

import asyncio
import contextlib
import copy
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

from deployments.errors import ModelLoadFailed, ReplicaLost
from deployments.vision.client import APP_NAME, VisionClient
from deployments.vision.deployment import ModelStatus

DEPLOY_DEADLINE_S = 300.0
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class RunningApp:
    """Where the app answers: `api_url` is None when it was started without HTTP."""

    api_url: str | None
    dashboard_url: str


@contextlib.contextmanager
def running_app(config: dict[str, Any], *, address: str | None, http: bool) -> Iterator[RunningApp]:
    """Yield the app on the cluster at `address`, or, with None, on a local Ray that lives as long as the context.

    An app that already runs at `address` is used as it is and left running. Raises ReplicaLost when the cluster cannot
    be reached or the app does not come up within DEPLOY_DEADLINE_S.
    """
    # Ray prints its own news at INFO; people should see ours.
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        context = ray.init(
            address=address or "local",
            include_dashboard=True if address is None else None,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ReplicaLost(f"expected a Ray cluster at {address or 'this machine'}, got {error}") from error
    dashboard_url = f"http://{context.dashboard_url}"
    try:
        # Ray's own client, because it knows the cluster's authentication token.
        serve_api = ServeSubmissionClient(dashboard_url)
        if not (address and _app_status(serve_api)):
            _deploy(serve_api, config, http=http)
        options = config.get("http_options") or {}
        api_url = f"http://{options.get('host', '127.0.0.1')}:{options.get('port', 8000)}" if http else None
        yield RunningApp(api_url, dashboard_url)
    finally:
        if address is None:
            serve.shutdown()
        ray.shutdown()


async def wait_for_model(client: VisionClient) -> ModelStatus:
    """Return the status once the model is loaded, or once it is known to load on first use. Raises ModelLoadFailed."""
    while True:
        status = await client.status()
        if status.state == "failed":
            raise ModelLoadFailed(status.error or "the model failed to load")
        if status.state == "ready" or (status.state == "cold" and status.loads_on_first_use):
            return status
        await asyncio.sleep(_POLL_S)


def _deploy(serve_api: ServeSubmissionClient, config: dict[str, Any], *, http: bool) -> None:
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
