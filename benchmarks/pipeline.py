"""How much of the engine's speed arrives: clips/s of the whole chain over clips/s of the bare engine, in one run.

The engine is the simulated one standing for a GPU: it sleeps 250 ms per clip, one replica. The input is a real file,
decoded for real. `make bench-pipeline`.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.films import write_film
from benchmarks.model_app import model_app
from benchmarks.results_file import Bar, write_result
from deployments.contracts import DescribeRequest, FrameBatch, ModelInfo
from deployments.settings import SimulatedSettings, VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.client import VisionClient, wait_for_model
from deployments.vision.simulated import SimulatedEngine
from pipelines.analysis import Analysis, open_analysis, plan_analysis
from pipelines.options import AnalysisOptions
from pipelines.outcome import ClipOutcome
from pipelines.plan import SamplingOptions
from pipelines.run import run_analyses
from pipelines.sandbox import Sandbox
from pipelines.source import inspect_source
from pipelines.store import open_store
from serve_app.cluster_app import local_app

FILM_S, CLIP_S, FRAMES_PER_CLIP = 600.0, 10.0, 8
CLIP_ENGINE_S = 0.25
MAX_BATCH_CLIPS = 4
REPEATS = 3
SETTINGS = VisionSettings(
    engine="simulated", simulated=SimulatedSettings(frame_s=CLIP_ENGINE_S / FRAMES_PER_CLIP), max_frames=FRAMES_PER_CLIP
)
OPTIONS = AnalysisOptions(sampling=SamplingOptions(clip_duration_s=CLIP_S, frames_per_clip=FRAMES_PER_CLIP))
MODEL = "engine"


def app_config(settings: VisionSettings) -> dict[str, Any]:
    """Return a config whose engine replica takes no CPU from decoding: it sleeps."""
    return model_app(
        MODEL,
        settings,
        max_ongoing_requests=256,
        ray_actor_options={"num_cpus": 0},
        user_config={"max_batch_clips": MAX_BATCH_CLIPS, "batch_wait_s": 0.002},
    )


def bare_engine_clips_per_s(film: Path, model: ModelInfo) -> float:
    """Return the speed of the engine alone on the film's clips, already decoded, in the deployment's batches."""
    with Sandbox() as sandbox:
        source = inspect_source(str(film), sandbox)
        clips = plan_analysis(source, model, OPTIONS)
        size = model.frame_spec.target_size(source.video.width, source.video.height)
        frames = [batch for _, batch in sandbox.decode(str(film), clips, size) if isinstance(batch, FrameBatch)]
    requests = [DescribeRequest(batch, OPTIONS.prompt) for batch in frames]
    engine = SimulatedEngine(SETTINGS.simulated)
    begun_s = time.perf_counter()
    for at in range(0, len(requests), MAX_BATCH_CLIPS):
        engine.describe(requests[at : at + MAX_BATCH_CLIPS])
    return len(requests) / (time.perf_counter() - begun_s)


async def analyse(film: Path, model: ModelInfo, client: VisionClient, sandbox: Sandbox) -> dict[str, float]:
    """Run one analysis from the call to its written result; return its timings in seconds and its clips.

    `sandbox` is the warm runner's own.
    """
    begun_s = time.perf_counter()
    first: list[float] = []

    def on_outcome(analysis: Analysis, outcome: ClipOutcome) -> None:
        if not first:
            first.append(time.perf_counter() - begun_s)

    with tempfile.TemporaryDirectory() as out:
        source = await asyncio.to_thread(inspect_source, str(film), sandbox)
        inspected_s = time.perf_counter() - begun_s
        clips = plan_analysis(source, model, OPTIONS)
        analysis = await open_analysis(source, model, OPTIONS, clips, open_store(out))
        opened_s = time.perf_counter() - begun_s
        [result] = await run_analyses([analysis], client, in_flight=asyncio.Semaphore(32), on_outcome=on_outcome)
        total_s = time.perf_counter() - begun_s
    if result["status"] != "completed":
        raise RuntimeError(f"expected a completed analysis, got {result['coverage']}")
    timings = result["timings"]
    return {
        "clips": float(len(clips)),
        "total_s": total_s,
        "first_caption_s": first[0],
        "inspect_s": inspected_s,
        "plan_s": opened_s - inspected_s,
        "first_decoded_s": timings["first_decoded_s"],
        "decode_s": timings["decode_s"],
        "queue_s": timings["queue_s"],
        "engine_s": timings["engine_s"],
        "commit_s": timings["commit_s"],
    }


async def measure(film: Path, model: ModelInfo) -> tuple[list[dict[str, float]], list[dict[str, float]], float]:
    """Return the runs of one video alone, those of four at once, and the wall seconds of the four."""
    client = VisionClient.connect(MODEL)
    await wait_for_model(client, deadline_s=60)
    with Sandbox() as sandbox:
        await analyse(film, model, client, sandbox)
        alone = [await analyse(film, model, client, sandbox) for _ in range(REPEATS)]
        begun_s = time.perf_counter()
        together = await asyncio.gather(*(analyse(film, model, client, sandbox) for _ in range(4)))
    return alone, list(together), time.perf_counter() - begun_s


def _efficiency(run: dict[str, float], bare_clips_per_s: float) -> dict[str, float]:
    return {"efficiency": run["clips"] / run["total_s"] / bare_clips_per_s}


def main() -> None:
    """Measure, print the table, write benchmarks/results/pipeline.json."""
    film = write_film("360p-10min", width=640, height=360, duration_s=FILM_S)
    model = model_info(MODEL, SETTINGS)
    bare = bare_engine_clips_per_s(film, model)
    with local_app(app_config(SETTINGS), http=False):
        alone, together, together_s = asyncio.run(measure(film, model))
    middle = sorted(alone, key=lambda run: run["total_s"])[len(alone) // 2]
    one = middle["clips"] / middle["total_s"] / bare
    four = sum(run["clips"] for run in together) / together_s / bare
    first_s = statistics.median(run["first_caption_s"] for run in alone)
    write_result(
        "pipeline",
        {
            "bare engine": {"clips_per_s": bare},
            **{f"one video, run {n}": run | _efficiency(run, bare) for n, run in enumerate(alone, 1)},
            **{f"four videos, video {n}": run | _efficiency(run, bare) for n, run in enumerate(together, 1)},
            "four videos": {"total_s": together_s, "efficiency": four},
        },
        {
            "efficiency, one video": Bar(one, 0.90, "of bare engine"),
            "efficiency, four videos": Bar(four, 0.95, "of bare engine"),
            "first caption, warm app": Bar(first_s, 1.0, "s", better="lower"),
        },
        model=f"simulated engine, {CLIP_ENGINE_S * 1000:.0f} ms per clip, batches of {MAX_BATCH_CLIPS}, one replica",
        shape=f"H.264 640x360, 25 frames/s, {FILM_S:g} s, clips of {CLIP_S:g} s with {FRAMES_PER_CLIP} frames",
    )


if __name__ == "__main__":
    main()
