"""Analyse one video from the command line: everything that can be refused is refused before Ray starts."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipelines.sandbox import Sandbox

from deployments.contracts import ModelInfo
from deployments.errors import UnknownModel
from deployments.vision.catalog import model_info
from deployments.vision.client import VisionClient
from pipelines.analysis import (
    Analysis,
    AnalysisOptions,
    finish_analysis,
    open_analysis,
    plan_analysis,
    run_analyses,
)
from pipelines.ledger import open_store
from pipelines.outcome import ClipOutcome
from pipelines.source import inspect_source
from serve_app.cluster_app import running_app, wait_for_model
from serve_app.config import load_config
from serve_app.settings import AppArgs


class Watcher(Protocol):
    """Whoever shows a person what goes on."""

    def stage(self, text: str) -> None:
        """A new stage has begun."""

    def planned(self, analysis: Analysis) -> None:
        """The video is planned and its output claimed."""

    def outcome(self, analysis: Analysis, outcome: ClipOutcome) -> None:
        """A clip's outcome is committed."""


@dataclass(frozen=True, slots=True)
class AnalyzeRequest:
    """`out` is a directory or URL; `model` None means the config's default; `address` None means a local Ray."""

    video: str
    out: str
    options: AnalysisOptions
    config_path: Path
    model: str | None = None
    address: str | None = None


def choose_model(args: AppArgs, name: str | None) -> ModelInfo:
    """Return what is known of the named or default model. Raises UnknownModel."""
    chosen = name or args.default_model
    if chosen not in args.models:
        raise UnknownModel(f"expected one of the models {', '.join(sorted(args.models))}, got {chosen!r}")
    return model_info(chosen, args.models[chosen])


def analyze_video(request: AnalyzeRequest, watcher: Watcher) -> dict[str, Any]:
    """Return the content of result.json, which then lies in `request.out`. Raises AppError.

    What an earlier, interrupted run recorded there is kept and not done again.
    """
    config, args = load_config(request.config_path)
    model = choose_model(args, request.model)
    watcher.stage("reading the video")
    with Sandbox() as sandbox:
        source = inspect_source(request.video, sandbox)
    clips = plan_analysis(source, model, request.options)
    store = open_store(request.out)
    analysis = asyncio.run(open_analysis(source, model, request.options, clips, store))
    watcher.planned(analysis)
    if analysis.complete:
        return asyncio.run(finish_analysis(analysis))
    watcher.stage("starting Ray and the app" if request.address is None else f"connecting to {request.address}")
    with running_app(config, address=request.address, http=False):
        return asyncio.run(_run(analysis, args, VisionClient.connect(model.name), watcher))


async def _run(analysis: Analysis, args: AppArgs, client: VisionClient, watcher: Watcher) -> dict[str, Any]:
    watcher.stage(f"loading the model {analysis.model.name}")
    await wait_for_model(client)
    watcher.stage("describing")
    results = await run_analyses(
        [analysis],
        client,
        in_flight=asyncio.Semaphore(args.in_flight_clips),
        decode_cpus=args.decode_cpus,
        on_outcome=watcher.outcome,
    )
    return results[0]
