"""`vidray doctor`: look at this machine, and say what is missing and what to do about it."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipelines import command_line as options
from serve_app.terminal import plain

_SIGNS = {"good": "ok     ", "note": "note   ", "bad": "missing"}


def doctor(
    config: Annotated[
        Path | None, typer.Option("--config", help="Serve config file [default: ./serve_config.yaml]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False,
) -> None:
    """Say what this machine lacks, and what to do: Python, GPU, libraries, decoders, disk, ports, Ray, config."""
    try:
        from serve_app.checks import findings
    except (ImportError, OSError) as error:  # what a library says that is missing, or lacks one of its own
        said = plain(" ".join(str(error).split()))
        sys.stderr.write(f"error: expected the libraries that `make setup` installs, got {said}: run it again\n")
        raise typer.Exit(options.FAILED) from error

    found = []
    for finding in findings(config):
        found.append(finding)
        if not as_json:
            advice = f"\n          {finding.advice}" if finding.advice else ""
            sys.stdout.write(plain(f"{_SIGNS[finding.state]} {finding.what:<12} {finding.found}{advice}") + "\n")
            sys.stdout.flush()
    if as_json:
        sys.stdout.write(json.dumps([asdict(one) for one in found], indent=1) + "\n")
    raise typer.Exit(options.FAILED if any(one.state == "bad" for one in found) else options.DONE)
