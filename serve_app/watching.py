"""Show an analysis of a running service at a terminal until it is done."""

import contextlib
import sys
import time
from typing import Any

import typer

from deployments.errors import ServiceFailed
from pipelines import command_line as options
from serve_app.service_client import ServiceClient, analysis_path, patiently
from serve_app.terminal import EventWatcher, plain

_LOOK_EVERY_S = 1.0
"""How often the ETA is asked for, at most: events do not tell it."""


def watched(service: ServiceClient, analysis: str, *, again: str) -> dict[str, Any]:
    """Return the result once it is done. Ctrl-C stops the watching alone: it says `again`, how to come back."""
    path = analysis_path(analysis)
    try:
        with EventWatcher() as watcher:
            looked_s = time.monotonic()
            watcher.progress(service.get(path))
            for kind, event in service.events(f"{path}/events"):
                watcher.event(kind, event)
                if kind == "progress" or time.monotonic() - looked_s > _LOOK_EVERY_S:
                    looked_s = time.monotonic()
                    with contextlib.suppress(ServiceFailed):  # the next look tells it, too
                        watcher.progress(service.get(path))
        return patiently(lambda: service.get(f"{path}/result"))
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped watching; the analysis goes on: {plain(again)}\n")
        raise typer.Exit(options.INTERRUPTED) from None
