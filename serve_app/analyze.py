"""Analyse one video from the command line: everything that can be refused is refused before Ray starts."""

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deployments.contracts import ModelInfo
from deployments.errors import UnknownModel
from deployments.vision.catalog import model_info
from deployments.vision.client import VisionClient, running_model, wait_for_model
from pipelines.analysis import (
    Analysis,
    finish_analysis,
    open_analysis,
    plan_analysis,
    run_analyses,
)
from pipelines.options import AnalysisOptions
from pipelines.outcome import ClipOutcome
from pipelines.sandbox import Sandbox
from pipelines.source import inspect_source
from pipelines.store import open_store
from serve_app.cluster_app import connected_app, local_app
from serve_app.config import load_config
from serve_app.settings import AppArgs

_MODEL_DEADLINE_S = 1800.0


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
    with contextlib.ExitStack() as running:
        if request.address is None:
            model = choose_model(args, request.model)
        else:
            watcher.stage(f"connecting to {request.address}")
            running.enter_context(connected_app(request.address))
            model = asyncio.run(_running_info(request.model))
        watcher.stage("reading the video")
        with Sandbox() as sandbox:
            source = inspect_source(request.video, sandbox)
        clips = plan_analysis(source, model, request.options)
        store = open_store(request.out)
        analysis = asyncio.run(open_analysis(source, model, request.options, clips, store))
        watcher.planned(analysis)
        if analysis.complete:
            return asyncio.run(finish_analysis(analysis))
        if request.address is None:
            watcher.stage("starting Ray and the app")
            running.enter_context(local_app(config, http=False))
        return asyncio.run(_run(analysis, args, watcher))


async def _running_info(name: str | None) -> ModelInfo:
    return (await VisionClient.connect(running_model(name)).status()).info


async def _run(analysis: Analysis, args: AppArgs, watcher: Watcher) -> dict[str, Any]:
    client = VisionClient.connect(analysis.model.name)
    watcher.stage(f"loading the model {analysis.model.name}")
    await wait_for_model(client, deadline_s=_MODEL_DEADLINE_S)
    watcher.stage("describing")
    results = await run_analyses(
        [analysis],
        client,
        in_flight=asyncio.Semaphore(args.in_flight_clips),
        decode_cpus=args.decode_cpus,
        on_outcome=watcher.outcome,
    )
    return results[0]
