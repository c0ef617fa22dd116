"""Analyse a video of this machine at a service elsewhere: send it, ask, watch, and bring the result home."""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from deployments.errors import InvalidInput, OutputConflict, ServiceFailed, UnknownModel
from pipelines import command_line as options
from pipelines.options import AnalysisOptions
from serve_app.local_file import write_whole
from serve_app.resumable_upload import send
from serve_app.service_client import ServiceClient, analysis_path, patiently, service_at
from serve_app.terminal import UploadBar
from serve_app.watching import watched

NOTES, RESULT, TIMELINE = "upload.json", "result.json", "timeline.md"
_TO_TRY_AGAIN = ("partial", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class RemoteRequest:
    """`out` is a directory; `model` None means the service's default."""

    server: str
    video: Path
    out: Path
    options: AnalysisOptions
    model: str | None = None


def analyze_remotely(request: RemoteRequest) -> dict[str, Any]:
    """Return the content of result.json, which then lies in `request.out` beside timeline.md. Raises AppError.

    The same request again goes on with the same upload and the same analysis. Ctrl-C stops the upload, or the watching.
    """
    if not request.video.is_file():
        raise InvalidInput(f"expected a video file, got no such file: {request.video}")
    if (request.out / RESULT).exists() and not (request.out / NOTES).exists():
        raise OutputConflict(f"expected no results of another run in {request.out}, got some: name another --out")
    with service_at(request.server) as service:
        model = _model(service, request.model)
        try:
            with UploadBar(request.video.name) as bar:
                file_id = send(service, request.video, request.out / NOTES, bar.arrived)
            analysis = _begun(service, _body(request.options, file_id, model))
            end = f"vidray cancel {analysis} --server {service.url}"
            result = watched(service, analysis, again=f"the same command comes back to it, `{end}` ends it")
            timeline = patiently(lambda: service.text(f"{analysis_path(analysis)}/result", format="md"))
        except KeyboardInterrupt:
            sys.stderr.write("stopped; what has arrived is kept: run the same command to go on\n")
            raise typer.Exit(options.INTERRUPTED) from None
    write_whole(request.out / RESULT, json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    write_whole(request.out / TIMELINE, timeline)
    return result


def _begun(service: ServiceClient, body: dict[str, Any]) -> str:
    """Return the id of the analysis that the request is for, under way again if it had come to an end without all."""
    key = _same_for(body)
    begun = patiently(lambda: service.post("/v1/analyses", body, headers={"Idempotency-Key": key}))
    analysis: str = begun["id"]
    if begun["state"] in _TO_TRY_AGAIN:
        _try_again(service, analysis)
    return analysis


def _try_again(service: ServiceClient, analysis: str) -> None:
    try:
        patiently(lambda: service.post(f"{analysis_path(analysis)}/retry"))
    except InvalidInput:
        # Asked twice, since the first answer was lost, it is under way already.
        if service.get(analysis_path(analysis))["state"] in _TO_TRY_AGAIN:
            raise


def _model(service: ServiceClient, name: str | None) -> str:
    """Return the model to ask, by default the service's, before anything is sent. Raises UnknownModel, ServiceFailed.

    It is named in the request, whose Idempotency-Key would else stand for two, once the service's default is another.
    """
    there = [model["id"] for model in service.models()["data"] if model["kind"] == "vision"]
    if not there:
        raise ServiceFailed(f"expected a Vidray service with a model that sees at {service.url}, got none")
    chosen = there[0] if name is None else name
    if chosen not in there:
        raise UnknownModel(f"expected one of the models {', '.join(there)}, got {chosen!r}")
    return chosen


def _body(asked: AnalysisOptions, file_id: str, model: str) -> dict[str, Any]:
    """Return the request as the service takes it: what is not asked for is left to its defaults."""
    body: dict[str, Any] = {
        "file_id": file_id,
        "model": model,
        "prompt": asked.prompt,
        "decoder": asked.decoder,
        "events": list(asked.event_kinds),
        **asked.sampling.model_dump(mode="json"),
        **asked.generation.model_dump(mode="json"),
    }
    return {name: value for name, value in body.items() if value is not None}


def _same_for(body: dict[str, Any]) -> str:
    """Return a key that is the same for the same question about the same file."""
    return f"vidray-{hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]}"
