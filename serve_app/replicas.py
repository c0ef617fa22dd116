"""How many replicas of each deployment run and how many are wanted, as Serve's controller has it.

`serve.status()` does not say how many are wanted; what Serve's own REST API and dashboard show does.
"""

import asyncio
import functools
import logging
from typing import Any

import ray
from ray.exceptions import RayError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from deployments.settings import APP_NAME, deployment_name
from serve_app.figures import ReplicaCount
from serve_app.settings import GATEWAY, RUNNER
from serve_app.stats import Replicas

logger = logging.getLogger("ray.serve.vidray.gateway")

_DEADLINE_S = 1.0


async def count_replicas() -> Replicas:
    """Return the counts, or none at all when the controller does not answer in time."""
    try:
        async with asyncio.timeout(_DEADLINE_S):
            controller = await asyncio.to_thread(_controller)
            details = await controller.get_serve_instance_details.remote()
    except (TimeoutError, ValueError, RayError) as error:  # ValueError: there is no such actor now
        logger.warning("Serve's controller does not say how many replicas run", exc_info=error)
        return Replicas()
    counts = {
        name: ReplicaCount(
            running=sum(replica["state"] == "RUNNING" for replica in deployment["replicas"]),
            wanted=deployment["target_num_replicas"],
        )
        for name, deployment in details["applications"][APP_NAME]["deployments"].items()
    }
    vision = deployment_name("")
    models = {name.removeprefix(vision): count for name, count in counts.items() if name.startswith(vision)}
    return Replicas(counts.get(GATEWAY), counts.get(RUNNER), models)


@functools.cache
def _controller() -> Any:
    return ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
