"""Run one whole analysis on the session's app, as a runner does."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deployments.contracts import ModelInfo
from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.client import VisionClient, wait_for_model
from pipelines.analysis import Analysis, open_analysis, plan_analysis
from pipelines.options import AnalysisOptions
from pipelines.outcome import ClipOutcome
from pipelines.plan import SamplingOptions
from pipelines.run import run_analyses
from pipelines.sandbox import Sandbox
from pipelines.source import inspect_source
from pipelines.store import open_store
from tests.ray_cluster import simulated_config

MODEL = model_info("sim", VisionSettings.model_validate(simulated_config()["applications"][0]["args"]["models"]["sim"]))
OnOutcome = Callable[[Analysis, ClipOutcome], None]


def analyse(
    video: Path,
    out: Path,
    *,
    model: ModelInfo = MODEL,
    on_outcome: OnOutcome | None = None,
    in_flight: int = 8,
    **sampling: Any,
) -> dict[str, Any]:
    options = AnalysisOptions(sampling=SamplingOptions.model_validate({"clip_duration_s": 5.0} | sampling))

    async def run() -> dict[str, Any]:
        client = VisionClient.connect(model.name)
        await wait_for_model(client, deadline_s=60)
        with Sandbox() as sandbox:
            source = inspect_source(str(video), sandbox)
        store = open_store(str(out))
        analysis = await open_analysis(source, model, options, plan_analysis(source, model, options), store)
        hear = on_outcome or (lambda analysis, outcome: None)
        [result] = await run_analyses([analysis], client, in_flight=asyncio.Semaphore(in_flight), on_outcome=hear)
        return result

    return asyncio.run(run())
