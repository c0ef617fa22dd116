"""A model's life in a real replica: what it tells, and that it goes and comes back."""

import asyncio
import time

import httpx2
import numpy as np
import ray

from deployments.contracts import Caption, DescribeRequest, FrameBatch
from deployments.vision.client import VisionClient
from tests.ray_cluster import Cluster, simulated_config

_COUNTED_S = 60.0
"""Ray's agents pass counts on every few seconds."""


def ask(count: int) -> list[Caption]:
    frames = FrameBatch(np.zeros((2, 28, 28, 3), np.uint8), np.arange(2, dtype=np.float64))

    async def run() -> list[Caption]:
        client = VisionClient.connect("sim")
        request = DescribeRequest(frames, "What is counted here?")
        return list(await asyncio.gather(*(client.describe(request) for _ in range(count))))

    return asyncio.run(run())


def counted(name: str) -> float | None:
    """Return the sum over the replicas of the model of one of Ray's metrics on this node, None while there is none."""
    [node] = [one for one in ray.nodes() if one["Alive"]]
    text = httpx2.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith(f"ray_vidray_vision_{name}{{")]
    found = [
        float(line.rsplit(" ", 1)[1]) for line in lines if 'model="sim"' in line and 'deployment="vision-sim"' in line
    ]
    return sum(found) if found else None


def test_a_replicas_work_is_counted_where_prometheus_finds_it(cluster: Cluster) -> None:
    cluster.restart_app(simulated_config(memory_bytes=10**9, frame_s=0.01))
    captions = ask(5)
    give_up_s = time.monotonic() + _COUNTED_S
    while (counted("frames_total") or 0) < 10:
        assert time.monotonic() < give_up_s, counted("frames_total")
        time.sleep(0.5)
    assert counted("frames_total") == 10
    assert counted("output_tokens_total") == sum(caption.output_tokens for caption in captions)
    assert counted("prompt_tokens_total") == sum(caption.prompt_tokens for caption in captions)
    assert counted("loads_total") == 1
    assert counted("ready") == 1
    assert counted("queued_clips") == 0
    assert counted("batch_clips_count") == 5
    assert counted("memory_bytes") is not None
    assert counted("engine_seconds_total") is not None


def test_an_idle_model_is_cold_and_the_service_stays_ready_and_brings_it_back(cluster: Cluster) -> None:
    config = simulated_config(load_s=1.5)
    config["applications"][0]["deployments"][-1]["user_config"] = {"idle_unload_s": 0.5}
    cluster.restart_app(config)
    url = f"http://127.0.0.1:{cluster.http_port}"

    def until(state: str) -> dict[str, object]:
        give_up_s = time.monotonic() + 30
        while (model := httpx2.get(f"{url}/v1/models/sim").json())["state"] != state:
            assert time.monotonic() < give_up_s, model
            time.sleep(0.05)
        return dict(model)

    loading = until("loading")
    while loading["load_progress"] is None or loading["load_progress"] == 0:
        loading = until("loading")
    assert 0 < float(str(loading["load_progress"])) < 1
    assert until("ready")["load_progress"] is None
    until("cold")
    assert httpx2.get(f"{url}/readyz").status_code == 200
    begun_s = time.monotonic()
    assert len(ask(2)) == 2
    assert time.monotonic() - begun_s >= 1.4  # it was loaded again
    assert until("ready")["error"] is None
