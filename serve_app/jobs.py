"""`vidray submit`: hand the batch job to a Ray cluster, as `ray job submit` does, and show what it says."""

import asyncio
import ipaddress
import json
import os
import shlex
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from deployments.errors import ServiceFailed
from pipelines import command_line as options
from serve_app.terminal import write_out

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

LOCAL_DASHBOARD = "http://127.0.0.1:8265"
_TOKEN_FILE = Path("~/.ray/auth_token")
"""Where Ray keeps the token of the clusters that it starts on this machine."""
_AGAIN_S = 1.0
_PATIENCE_S = 120.0
"""How long the dashboard may be gone before the job is given up."""
_CONNECT_S = 35.0
"""A connection that was cut after longer was there before: aiohttp tries for 30 s to make one."""


def submit(
    context: typer.Context,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="the cluster's dashboard")
    ] = LOCAL_DASHBOARD,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="show the job's output until it ends")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print the job's id and how it ended as JSON")] = False,
) -> None:
    """Describe many videos as a job of a Ray cluster.

    `--input 'GLOB' --output DIRECTORY` say which and where to; every other option is that of `python -m
    pipelines.batch`, checked here before anything is sent; `vidray submit -- --help` lists them. The same job submitted
    again goes on where the last one stopped.
    """
    if _TOKEN_FILE.expanduser().exists():  # before Ray is imported, which asks then and never again
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    arguments = _checked(context.args)
    client = _client(address)
    entrypoint = shlex.join([_python_at(address), "-m", "pipelines.batch", *arguments])
    try:
        job = client.submit_job(entrypoint=entrypoint)
    except RuntimeError as error:
        raise ServiceFailed(f"expected the cluster at {address} to take a job, got {_first_line(error)}") from error
    at = f"--address {address} {job}"
    sys.stderr.write(f"job {job}: `ray job logs {at}` shows what it says, `ray job stop {at}` ends it\n")
    if not wait:
        _told(job, None, as_json)
        return
    try:
        details = asyncio.run(_followed(client, job, quiet=as_json))
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped watching; the job goes on: {job}\n")
        raise typer.Exit(options.INTERRUPTED) from None
    _told(job, str(details.status), as_json)
    code = options.DONE if details.status == "SUCCEEDED" else (details.driver_exit_code or options.FAILED)
    raise typer.Exit(code)


def _checked(arguments: list[str]) -> list[str]:
    """Return the arguments of the job, refused here if the job would refuse them. Raises AppError, TyperException."""
    from pipelines.batch import command

    with typer.main.get_command(command).make_context("vidray submit", list(arguments)) as context:
        options.analysis_options(context.params)
    return arguments


def _client(address: str) -> "JobSubmissionClient":
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise ServiceFailed(
            f"expected a Ray cluster's dashboard at {address}, got {_first_line(error)}; `vidray serve` prints its own"
        ) from error


def _python_at(address: str) -> str:
    """Return the interpreter of the job: this one on this machine, elsewhere the one that the cluster calls python."""
    host = urlsplit(address).hostname or ""
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    return sys.executable if here else "python"


async def _followed(client: "JobSubmissionClient", job: str, *, quiet: bool) -> "JobDetails":
    """Return how the job ended; show what it says, once, over any number of connections. Raises ServiceFailed."""
    out = sys.stderr if quiet else sys.stdout
    shown, gone_since_s = 0, None
    while True:
        heard, begun_s = 0, time.monotonic()  # a new connection tells it all again
        try:
            async for text in _told_by(client, job):
                write_out(text[max(0, shown - heard) :], out)
                out.flush()
                heard += len(text)
                shown = max(shown, heard)
                gone_since_s = None
            details = await _info(client, job)
            if details.status.is_terminal():
                return details
            gone_since_s = None
        except _Gone as gone:
            now_s = time.monotonic()
            if gone_since_s is None or now_s - begun_s > _CONNECT_S:
                gone_since_s = now_s
            if now_s - gone_since_s > _PATIENCE_S:
                raise ServiceFailed(f"expected the job {job} at the dashboard that took it, got {gone}") from gone
        await asyncio.sleep(_AGAIN_S)


class _Gone(Exception):
    """The dashboard does not answer, or no more: of its errors alone, not of ours."""


async def _told_by(client: "JobSubmissionClient", job: str) -> AsyncIterator[str]:
    from aiohttp import ClientError

    lines = client.tail_job_logs(job)
    while True:
        try:
            text = await anext(lines)
        except StopAsyncIteration:
            return
        except (OSError, RuntimeError, ClientError) as error:
            raise _Gone(_first_line(error)) from error
        yield text


async def _info(client: "JobSubmissionClient", job: str) -> "JobDetails":
    from ray.exceptions import RayError

    try:
        return await asyncio.to_thread(client.get_job_info, job)
    except (OSError, RuntimeError, RayError) as error:
        raise _Gone(_first_line(error)) from error


def _told(job: str, status: str | None, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"job": job, "status": status}) + "\n")
    elif status is None:
        sys.stdout.write(f"{job}\n")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
