"""The vision model as Ray runs it: with its part of a GPU and Ray's metrics."""

import ray

from deployments.settings import VisionSettings
from deployments.vision.deployment import VisionModel
from deployments.vision.metrics import ReplicaMetrics


class VisionReplica(VisionModel):
    """`VisionModel` in a process of Ray's."""

    def __init__(self, name: str, settings: VisionSettings) -> None:
        super().__init__(name, settings, gpu_share=_gpu_share, observer=ReplicaMetrics(name))


def _gpu_share() -> float | None:
    """Return the part of a GPU that Ray counts for this replica, None where that is a whole one or none.

    Ray only counts: what a process really takes is for it to bound.
    """
    gpus = ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)
    return float(gpus) if 0 < gpus < 1 else None
