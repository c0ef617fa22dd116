"""The vision model as Ray runs it: with its part of a GPU and Ray's metrics."""

import logging
import os

import ray

from deployments.settings import VisionSettings
from deployments.vision.deployment import VisionModel
from deployments.vision.metrics import ReplicaMetrics

logger = logging.getLogger("ray.serve.vidray.vision")


class VisionReplica(VisionModel):
    """`VisionModel` in a process of Ray's."""

    def __init__(self, name: str, settings: VisionSettings) -> None:
        super().__init__(name, settings, gpu_share=_gpu_share, observer=ReplicaMetrics(name), on_lost=_end)


def _end() -> None:
    """End this process, at once: its context of the device is lost, and another process may have a new one.

    Callers see a replica that died, whose clips are asked for again; one that stayed would refuse them until Serve has
    looked at it three times.
    """
    logger.critical("the device is lost; the replica ends")
    logging.shutdown()
    os._exit(1)


def _gpu_share() -> float | None:
    """Return the part of a GPU that Ray counts for this replica, None where that is a whole one or none.

    Ray only counts: what a process really takes is for it to bound.
    """
    gpus = ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)
    return float(gpus) if 0 < gpus < 1 else None
