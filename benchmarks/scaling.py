"""More replicas, more clips a second? Whole logical devices, and parts of one. `make bench-scaling`.

Ray is told of GPUs that are not there, and the simulated engine stands for the model: it sleeps 250 ms a clip, as in
`make bench-pipeline`. What is measured is what lies before the devices: routing, batching, and whether Ray places the
parts on one device. At 100 ms a clip ten devices reached 0.944 of linear: 88 calls a second keep two cores busy. That
parts of a real GPU share its arithmetic no sleep can show.
"""

import asyncio
import time
from typing import Any

import numpy as np

from benchmarks.model_app import model_app
from benchmarks.results_file import Bar, write_result
from deployments.contracts import DescribeRequest, FrameBatch
from deployments.settings import SimulatedSettings, VisionSettings
from deployments.vision.client import VisionClient, wait_for_model
from serve_app.cluster_app import local_app

FRAMES, CLIP_ENGINE_S, BATCH_CLIPS = 8, 0.25, 4
DEVICES = (1, 2, 4, 10)
PARTS = (1, 2, 4)
WARM_S, MEASURED_S = 3.0, 15.0
SETTINGS = VisionSettings(engine="simulated", simulated=SimulatedSettings(frame_s=CLIP_ENGINE_S / FRAMES))
MODEL = "engine"
_WAITING_PER_REPLICA = 3 * BATCH_CLIPS
_REPLICAS_DEADLINE_S = 120


def app_config(replicas: int, gpus_each: float) -> dict[str, Any]:
    return model_app(
        MODEL,
        SETTINGS,
        num_replicas=replicas,
        max_ongoing_requests=_WAITING_PER_REPLICA,
        ray_actor_options={"num_cpus": 0, "num_gpus": gpus_each},
        user_config={"max_batch_clips": BATCH_CLIPS},
    )


async def clips_per_s(replicas: int) -> float:
    """Return how many clips a second all replicas describe while there are always more."""
    client = VisionClient.connect(MODEL)
    await wait_for_model(client, deadline_s=_REPLICAS_DEADLINE_S)
    frames = FrameBatch(np.zeros((FRAMES, 112, 196, 3), np.uint8), np.arange(FRAMES, dtype=np.float64))
    request = DescribeRequest(frames, "What?")
    begun_s = time.perf_counter()
    counted = 0

    async def ask_on() -> None:
        nonlocal counted
        while (since_s := time.perf_counter() - begun_s) < WARM_S + MEASURED_S:
            await client.describe(request)
            counted += since_s >= WARM_S

    await asyncio.gather(*(ask_on() for _ in range(replicas * _WAITING_PER_REPLICA)))
    return counted / (time.perf_counter() - begun_s - WARM_S)


def measure(devices: int, replicas: int, gpus_each: float) -> float:
    with local_app(app_config(replicas, gpus_each), http=False, gpus=devices):
        return asyncio.run(clips_per_s(replicas))


def main() -> None:
    """Measure, print the table, write benchmarks/results/scaling.json."""
    by_devices = {devices: measure(devices, devices, 1.0) for devices in DEVICES}
    by_parts = {parts: measure(1, parts, 1 / parts) for parts in PARTS}
    linear = {devices: speed / (devices * by_devices[1]) for devices, speed in by_devices.items()}
    write_result(
        "scaling",
        {
            **{
                f"{devices} devices, a replica each": {"clips_per_s": speed, "of linear": linear[devices]}
                for devices, speed in by_devices.items()
            },
            **{
                f"one device, {parts} replicas of {1 / parts:g}": {"clips_per_s": speed}
                for parts, speed in by_parts.items()
            },
        },
        {
            f"speed of {devices} devices over {devices} times that of one": Bar(linear[devices], 0.95, "of linear")
            for devices in DEVICES[1:]
        },
        model=f"simulated engine, {CLIP_ENGINE_S * 1000:.0f} ms a clip, batches of {BATCH_CLIPS}",
        shape=f"clips of {FRAMES} frames of 196x112, {MEASURED_S:g} s each, {_WAITING_PER_REPLICA} callers a replica",
    )


if __name__ == "__main__":
    main()
