"""A model's life in a real replica: what it tells, and that it goes and comes back."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import numpy as np
import ray

from deployments.contracts import Caption, DescribeRequest, FrameBatch, Question
from deployments.vision.client import VisionClient
from tests.ray_cluster import Cluster, simulated_config

MODEL = "lives"
_COUNTED_S = 60.0
"""Ray's agents pass counts on every few seconds."""


def config_of(**simulated: Any) -> dict[str, Any]:
    """Return a config whose model has a name of its own: Ray goes on to tell for a while what replicas counted."""
    config = simulated_config(**simulated)
    app = config["applications"][0]
    app["args"] |= {"models": {MODEL: app["args"]["models"]["sim"]}, "default_model": MODEL}
    app["deployments"][-1]["name"] = f"vision-{MODEL}"
    return config


def ask(count: int) -> list[Caption]:
    frames = FrameBatch(np.zeros((2, 28, 28, 3), np.uint8), np.arange(2, dtype=np.float64))

    async def run() -> list[Caption]:
        client = VisionClient.connect(MODEL)
        request = DescribeRequest(frames, "What is counted here?", also=(Question("And what else?"),))
        return list(await asyncio.gather(*(client.describe(request) for _ in range(count))))

    return asyncio.run(run())


def counted(name: str) -> float | None:
    """Return the sum over the model's replicas of one of Ray's metrics on this node, None while there is none."""
    [node] = [one for one in ray.nodes() if one["Alive"]]
    text = httpx2.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith(f"ray_vidray_vision_{name}{{")]
    found = [float(line.rsplit(" ", 1)[1]) for line in lines if f'model="{MODEL}"' in line]
    return sum(found) if found else None


def test_a_replicas_work_is_counted_where_prometheus_finds_it(cluster: Cluster) -> None:
    cluster.restart_app(config_of(memory_bytes=10**9, frame_s=0.01))
    captions = ask(5)
    give_up_s = time.monotonic() + _COUNTED_S
    while (counted("frames_total") or 0) < 10:
        assert time.monotonic() < give_up_s, counted("frames_total")
        time.sleep(0.5)
    assert counted("frames_total") == 10
    answers = [answer for caption in captions for answer in caption.answers]
    assert len(answers) == 10
    assert counted("output_tokens_total") == sum(answer.output_tokens for answer in answers)
    assert counted("prompt_tokens_total") == sum(answer.prompt_tokens for answer in answers)
    assert counted("loads_total") == 1
    assert counted("ready") == 1
    assert counted("queued_clips") == 0
    assert counted("batch_clips_count") == 5
    assert counted("memory_bytes") is not None
    assert counted("healthy") == 1
    assert counted("batch_frames_count") is not None
    assert counted("cache_tokens_count") is not None
    assert counted("seconds_per_frame_count") == 5
    assert counted("engine_seconds_total") is not None


def test_an_idle_model_is_cold_and_the_service_stays_ready_and_brings_it_back(cluster: Cluster) -> None:
    config = config_of(load_s=2.0)
    config["applications"][0]["deployments"][-1]["user_config"] = {"idle_unload_s": 0.5}
    cluster.restart_app(config)
    url = f"http://127.0.0.1:{cluster.http_port}"

    def model() -> dict[str, Any]:
        return dict(httpx2.get(f"{url}/v1/models/{MODEL}").json())

    def until(told: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        give_up_s = time.monotonic() + 30
        while not told(found := model()):
            assert time.monotonic() < give_up_s, found
            time.sleep(0.05)
        return found

    until(lambda one: one["state"] == "cold")
    assert httpx2.get(f"{url}/readyz").status_code == 200
    with ThreadPoolExecutor(1) as aside:
        asked = aside.submit(ask, 2)
        loading = until(lambda one: bool(one["load_progress"]))
        assert loading["state"] == "loading"
        assert 0 < loading["load_progress"] <= 1
        assert httpx2.get(f"{url}/readyz").status_code == 200
        assert len(asked.result()) == 2
    assert model()["load_progress"] is None
    until(lambda one: one["state"] == "cold")
