"""cluster/serve_config.gpu.yaml, deployed on logical GPUs with the simulated engine in place of the 7B model."""

import asyncio
import copy
import time
from pathlib import Path

import numpy as np
import ray
from ray import serve
from ray.serve._private.common import ReplicaState

from deployments.contracts import DescribeRequest, FrameBatch
from deployments.vision.client import VisionClient, wait_for_model
from serve_app.config_check import load_config
from tests.ray_cluster import ROOT, Cluster

MODEL = "qwen2.5-vl-7b"


def test_the_gpu_config_puts_replicas_on_fractions_of_gpus_and_scales_with_load(cluster: Cluster) -> None:
    shipped, _ = load_config(Path(ROOT / "cluster" / "serve_config.gpu.yaml"))
    config = copy.deepcopy(shipped)
    app = config["applications"][0]
    # What a machine without GPUs cannot have: the weights. Everything Ray sees stays as shipped, but for the patience.
    app["args"]["models"][MODEL] |= {"engine": "simulated", "simulated": {"fixed_s": 0.2}, "device": "auto"}
    vision = next(one for one in app["deployments"] if one["name"] == f"vision-{MODEL}")
    vision["autoscaling_config"] |= {"upscale_delay_s": 1, "metrics_interval_s": 0.5, "look_back_period_s": 1}
    vision["ray_actor_options"]["num_cpus"] = 0.5
    cluster.restart_app(config)

    async def load_until_scaled() -> int:
        client = VisionClient.connect(MODEL)
        await wait_for_model(client, deadline_s=60)
        assert _gpus_in_use() == 0.5
        request = DescribeRequest(FrameBatch(np.zeros((2, 28, 28, 3), np.uint8), np.array([0.0, 1.0])), "What?")
        give_up_s = time.monotonic() + 90
        while time.monotonic() < give_up_s:
            captions = await asyncio.gather(*(client.describe(request) for _ in range(128)))
            assert all(caption.text for caption in captions)
            if (replicas := _running_replicas()) > 1:
                return replicas
        return 1

    replicas = asyncio.run(load_until_scaled())
    assert replicas > 1
    assert _gpus_in_use() >= replicas * 0.5 - 1e-6


def _running_replicas() -> int:
    states = serve.status().applications["vidray"].deployments[f"vision-{MODEL}"].replica_states
    return states.get(ReplicaState.RUNNING, 0)


def _gpus_in_use() -> float:
    return float(ray.cluster_resources()["GPU"] - ray.available_resources().get("GPU", 0.0))
