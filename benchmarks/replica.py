"""What the replica around the engine costs, for a clip that comes alone and at saturation: part of `make bench-engine`.

The models and clips are those of `benchmarks/engine.py`, of 8 frames and 32 tokens. The deployment's share is measured
where more clips wait than are under way, against the bare engine on as many, in turns.
"""

import asyncio
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from benchmarks.engine_peers import Peers
from benchmarks.engine_work import (
    EQUAL_TOKENS,
    HEIGHT,
    UNDER_WAY,
    WIDTH,
    Model,
    clips,
    models_to_measure,
    through,
    timed,
)
from benchmarks.model_app import model_app
from benchmarks.results_file import Bar, write_result
from deployments.contracts import DescribeRequest
from deployments.settings import VisionSettings
from deployments.vision.client import VisionClient, wait_for_model
from deployments.vision.deployment import VisionModel
from deployments.vision.qwen.engine import TransformersEngine
from serve_app.cluster_app import local_app

FRAMES = 8
LONE_CLIPS = 25
SATURATION = 4
"""Times that all clips are put to the deployment."""


def lone_latency(model: Model, requests: Sequence[DescribeRequest]) -> float:
    """Return the median time of a clip that comes alone to a replica over that of a bare `generate`."""
    return asyncio.run(_lone(model, requests))


async def _lone(model: Model, requests: Sequence[DescribeRequest]) -> float:
    replica = VisionModel("lone", model.settings())
    on_engine = replica.batcher.on_engine
    await replica.describe(requests[0])
    peers = await on_engine(Peers, model.checkpoint)
    ours, plain = [], []
    for request in requests:
        begun_s = time.perf_counter()
        await replica.describe(request)
        ours.append(time.perf_counter() - begun_s)
        plain.append((await on_engine(timed, lambda request=request: peers.fixed_batches([request], 1)))[0])
    return statistics.median(ours) / statistics.median(plain)


def served(
    settings: VisionSettings, requests: Sequence[DescribeRequest], rounds: int, bare: Callable[[], object]
) -> tuple[float, float]:
    """Return the median seconds of all clips through the deployment, at saturation, and of `bare`, in turns.

    More clips wait at it than are under way. At the beginning and the end of a run the engine is not full, either way.
    """
    # Ray gives a replica's PyTorch as many threads as CPUs.
    cores = {"num_cpus": len(os.sched_getaffinity(0))}
    config = model_app("engine", settings, ray_actor_options=cores, max_ongoing_requests=2 * len(requests))

    async def ask() -> list[tuple[float, float]]:
        client = VisionClient.connect("engine")
        await wait_for_model(client, deadline_s=120)
        await asyncio.gather(*(client.describe(request) for request in requests[:UNDER_WAY]))
        taken = []
        for _ in range(rounds):
            begun_s = time.perf_counter()
            await asyncio.gather(*(client.describe(request) for request in requests))
            through_s = time.perf_counter() - begun_s
            taken.append((through_s, timed(bare)[0]))
        return taken

    with local_app(config, http=False):
        taken = asyncio.run(ask())
    return statistics.median(whole for whole, _ in taken), statistics.median(alone for _, alone in taken)


def main() -> None:
    """Measure, print the table, write benchmarks/results/replica.json."""
    figures: dict[str, dict[str, float]] = {}
    nothing = VisionSettings.model_validate({"engine": "simulated", "simulated": {"frame_s": 0.0}})
    models = models_to_measure()
    for model in models:
        requests = clips(model.clips, FRAMES, varying=False)
        waiting = [*requests] * SATURATION
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            # Where a second thread has computed before, PyTorch's pools of threads stand in each other's way.
            lone = fresh.submit(lone_latency, model, requests[:LONE_CLIPS]).result()
        engine = TransformersEngine(model.settings())
        engine.load()
        whole_s, bare_s = served(model.settings(), waiting, model.repeats + 1, partial(through, engine, waiting))
        called_s, _ = served(nothing, waiting, model.repeats + 1, lambda: None)
        figures[model.name] = {
            "a lone clip over a bare generate": lone,
            "share of the engine's speed that the deployment takes": 1 - bare_s / whole_s,
            "ms a clip, bare engine": 1000 * bare_s / len(waiting),
            "ms a clip, deployment": 1000 * whole_s / len(waiting),
            "ms a clip, deployment of an engine that does nothing": 1000 * called_s / len(waiting),
        }
        print(figures, flush=True)
    lone = max(row["a lone clip over a bare generate"] for row in figures.values())
    bars = {
        "a lone clip in a replica over a bare generate": Bar(lone, 1.1, "times", better="lower"),
    }
    for name, row in figures.items():
        bars[f"what the deployment takes of the engine's speed, {name}"] = Bar(
            row["share of the engine's speed that the deployment takes"], 0.05, "share", "lower"
        )
    write_result(
        "replica",
        figures,
        bars,
        model="demo checkpoint and random weights, fp32 on a CPU, answers that do not end by themselves",
        shape=f"clips of {FRAMES} frames of {WIDTH}x{HEIGHT}, {EQUAL_TOKENS} tokens; at saturation {SATURATION} times "
        f"{' or '.join(str(one.clips) for one in models)} of them, {UNDER_WAY} under way",
    )


if __name__ == "__main__":
    main()
