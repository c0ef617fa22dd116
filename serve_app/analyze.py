"""Analyse one video from the command line: everything that can be refused is refused before Ray starts.

Ray itself is imported once the video is planned: that takes seconds, in which there is an ETA already.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deployments.contracts import ModelInfo
from deployments.errors import UnknownModel
from deployments.vision.catalog import model_info
from pipelines.analysis import Analysis, finish_analysis, open_analysis, plan_analysis
from pipelines.options import AnalysisOptions
from pipelines.outcome import ClipOutcome
from pipelines.sandbox import Sandbox
from pipelines.source import inspect_source
from pipelines.store import open_store
from serve_app.config import app_args, load_deadline_s, read_config
from serve_app.pace import Stopwatch
from serve_app.pace_file import Paces
from serve_app.settings import AppArgs


class Watcher(Protocol):
    """Whoever shows a person what goes on."""

    def stage(self, text: str) -> None:
        """A new stage has begun."""

    def expected(self, clips: int, left_s: float | None) -> None:
        """There are so many clips; the last runs say that it takes so many seconds from now, None without any."""

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
    stopwatch = Stopwatch(time.monotonic())
    config = read_config(request.config_path)
    args = app_args(config)
    with contextlib.ExitStack() as running:
        if request.address is None:
            model = choose_model(args, request.model)
        else:
            from serve_app.cluster_app import connected_app
            from serve_app.config_check import check_config

            check_config(config)
            watcher.stage(f"connecting to {request.address}")
            running.enter_context(connected_app(request.address))
            model = asyncio.run(_running_info(request.model))
        watcher.stage("reading the video")
        with Sandbox() as sandbox:
            source = inspect_source(request.video, sandbox)
        clips = plan_analysis(source, model, request.options)
        paces = Paces(model, own_ray=request.address is None)
        watcher.expected(len(clips), paces.left_s(clips, stopwatch))
        if request.address is None:
            from serve_app.config_check import check_config

            check_config(config)
        store = open_store(request.out)
        analysis = asyncio.run(open_analysis(source, model, request.options, clips, store))
        watcher.planned(analysis)
        if analysis.complete:
            return asyncio.run(finish_analysis(analysis))
        pending = [clip for clip in clips if clip.index not in analysis.outcomes]
        watcher.expected(len(clips), paces.left_s(pending, stopwatch))
        if request.address is None:
            from serve_app.cluster_app import local_app

            watcher.stage("starting Ray and the app")
            running.enter_context(local_app(config, http=False))

        running.callback(paces.remember, stopwatch)
        load_s = load_deadline_s(config, analysis.model.name)
        return asyncio.run(_run(analysis, args, load_s, watcher, stopwatch))


async def _running_info(name: str | None) -> ModelInfo:
    from deployments.vision.client import VisionClient, running_model

    return (await VisionClient.connect(running_model(name)).status()).info


async def _run(
    analysis: Analysis, args: AppArgs, load_s: float, watcher: Watcher, stopwatch: Stopwatch
) -> dict[str, Any]:
    from deployments.vision.client import VisionClient, wait_for_model
    from pipelines.run import run_analyses

    def on_outcome(analysis: Analysis, outcome: ClipOutcome) -> None:
        stopwatch.ended(outcome)
        watcher.outcome(analysis, outcome)

    client = VisionClient.connect(analysis.model.name)
    watcher.stage(f"loading the model {analysis.model.name}")
    await wait_for_model(client, deadline_s=load_s)
    watcher.stage("describing")
    results = await run_analyses(
        [analysis],
        client,
        in_flight=asyncio.Semaphore(args.in_flight_clips),
        decode_cpus=args.decode_cpus,
        on_outcome=on_outcome,
    )
    return results[0]
