"""`vidray serve`: Ray and the app, from the start to a stop in order."""

import json
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from serve_app.cluster_app import LocalApp, drain_gateways, local_app
from serve_app.config import default_config_path
from serve_app.config_check import load_config

DRAIN_S = 20.0
"""How long requests in flight are waited for when the service is stopped."""


def serve_until_stopped(config: Path | None, *, as_json: bool) -> int:
    """Return how many requests did not end in time; a second signal raises KeyboardInterrupt wherever it finds us.

    Where it is to be found is told once it answers: to a person, or as one line of JSON.

    Raises InvalidConfig, ReplicaLost.
    """
    path = config or default_config_path()
    content, args = load_config(path)
    sys.stderr.write(f"starting Ray and the app of {path} (models: {', '.join(args.models)})\n")
    stop = threading.Event()

    def stop_or_hurry(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    with local_app(content, http=True) as running:
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, stop_or_hurry)
        sys.stdout.write(json.dumps(asdict(running)) + "\n" if as_json else told(running))
        sys.stdout.flush()
        stop.wait()
        sys.stderr.write("stopping: requests in flight end first; Ctrl-C again stops at once\n")
        return drain_gateways(DRAIN_S)


def told(running: LocalApp) -> str:
    """Return the lines that say where a running app is to be found."""
    return (
        f"API            {running.api_url}  (docs at {running.api_url}/docs)\n"
        f"Ray dashboard  {running.dashboard_url}  (`ray get-auth-token` prints the token it asks for)\n"
        f"Ray            {running.ray_address}  (for `vidray analyze --address`)\n"
    )
