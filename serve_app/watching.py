"""Show an analysis of a running service at a terminal until it is done."""

import contextlib
import sys

import typer

from deployments.errors import ServiceFailed
from pipelines import command_line as options
from serve_app.service_client import ServiceClient, analysis_path
from serve_app.terminal import EventWatcher, plain


def watched(service: ServiceClient, analysis: str, *, again: str) -> None:
    """Return when it is done. Ctrl-C stops the watching alone: it says `again`, how to come back, and exits."""
    path = analysis_path(analysis)
    try:
        with EventWatcher() as watcher:
            watcher.progress(service.get(path))
            for kind, event in service.events(f"{path}/events"):
                watcher.event(kind, event)
                if kind == "progress":
                    with contextlib.suppress(ServiceFailed):  # the next one tells it, too
                        watcher.progress(service.get(path))
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped watching; the analysis goes on: {plain(again)}\n")
        raise typer.Exit(options.INTERRUPTED) from None
