"""What an engine is: code that turns frames and questions into words on one device and knows nothing of Ray."""

from collections.abc import Sequence
from typing import Protocol

from deployments.contracts import Caption, EngineRequest
from deployments.settings import VisionSettings


class VisionEngine(Protocol):
    """One model on one device. Calls never overlap: whoever owns an engine calls it from one thread at a time."""

    def load(self) -> None:
        """Bring the weights onto the device. Raises ModelLoadFailed."""

    def describe(self, requests: Sequence[EngineRequest]) -> list[Caption]:
        """Caption each clip and go on with each conversation, in order. Raises EngineFailed for the whole call."""

    def check(self) -> None:
        """Touch the loaded model on its device. Raises EngineFailed when it is unusable."""


def make_engine(settings: VisionSettings) -> VisionEngine:
    """Build the engine that `settings.engine` names; heavy libraries are imported only here and only for it."""
    if settings.engine == "simulated":
        from deployments.vision.simulated import SimulatedEngine

        return SimulatedEngine(settings.simulated)
    from deployments.vision.qwen.engine import TransformersEngine

    return TransformersEngine(settings)
