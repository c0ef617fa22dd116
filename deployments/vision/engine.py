"""What an engine is: code that turns frames and questions into words on one device and knows nothing of Ray."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from deployments.contracts import Caption, EngineRequest
from deployments.errors import ModelLoadFailed
from deployments.settings import VisionSettings
from deployments.vision.choice import choose, is_auto


class Prepared(Protocol):
    """A request as its engine takes it: the engine's own type, known by identity."""

    @property
    def rows(self) -> int:
        """Answers that are written to it side by side."""

    @property
    def most_tokens(self) -> int:
        """Tokens of the prompt, frames included, and of the longest answer to it: the most of a row."""

    @property
    def frame_count(self) -> int:
        """Frames among the prompt's; 0 for a conversation."""


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Bytes of the engine's device: `free_bytes` that it could still take, `peak_bytes` most taken since the last one.

    Both are counted from what the loaded model takes when nothing is under way, so that they can be compared.
    `allocated_bytes` are the process's in all, `reserved_bytes` with what its allocator keeps for later.
    """

    free_bytes: int
    peak_bytes: int
    allocated_bytes: int = 0
    reserved_bytes: int = 0


def unheard(share: float) -> None:
    """Take no notice of how far a load is."""


class VisionEngine(ABC):
    """One model on one device, which writes for several requests at once.

    A request is prepared, started, written to its end by steps that it shares with others, and then gone. Calls never
    overlap, whoever owns an engine calls it from one thread at a time; only `prepare` may be called from another one.
    """

    @abstractmethod
    def load(self, report: Callable[[float], None] = unheard) -> None:
        """Bring the weights onto the device and make ready; `report` hears the share done.

        Raises ModelLoadFailed, and OutOfMemory where the weights do not fit.
        """

    @abstractmethod
    def unload(self) -> None:
        """Give the device back, all of it; nothing is under way. It may be loaded again."""

    @abstractmethod
    def check(self) -> None:
        """Touch the loaded model on its device. Raises EngineFailed when it is unusable."""

    @abstractmethod
    def prepare(self, request: EngineRequest) -> Prepared:
        """Do what needs no device. Raises ClipRejected for what the model can never take."""

    @abstractmethod
    def start(self, batch: Sequence[Prepared]) -> None:
        """Begin with all of these, or with none where it raises: OutOfMemory, EngineFailed."""

    @abstractmethod
    def step(self) -> list[tuple[Prepared, Caption]]:
        """Go on with all under way and return those that have ended. Raises EngineFailed."""

    @abstractmethod
    def drop(self, leaving: Sequence[Prepared]) -> None:
        """Forget these, begun or not."""

    @abstractmethod
    def memory(self) -> MemoryReading | None:
        """Read the device's memory and begin a new peak; None where there is no bound. Raises DeviceLost."""

    def utilisation(self) -> float | None:
        """Return how much of the last moments the device had work, in [0, 1]; None where that is not told."""
        return None

    def describe(self, requests: Sequence[EngineRequest]) -> list[Caption]:
        """Caption each clip and go on with each conversation, all at once and in order.

        Raises what `prepare`, `start` and `step` raise, for the whole call.
        """
        batch = [self.prepare(request) for request in requests]
        captions: dict[int, Caption] = {}
        try:
            self.start(batch)
            while len(captions) < len(batch):
                captions |= {id(one): caption for one, caption in self.step()}
        except BaseException:
            self.drop(batch)
            raise
        return [captions[id(one)] for one in batch]


def make_engine(settings: VisionSettings, *, gpu_share: float | None = None) -> VisionEngine:
    """Build the engine that `settings.engine` names; heavy libraries are imported only here and only for it.

    `gpu_share` is the part of a GPU that it may take, None: all of it.
    """
    if settings.engine == "simulated":
        from deployments.vision.simulated import SimulatedEngine

        return SimulatedEngine(settings.simulated)
    from deployments.vision.qwen.engine import TransformersEngine

    return TransformersEngine(settings, gpu_share=gpu_share)


def settled(settings: VisionSettings, *, gpu_share: float | None) -> tuple[VisionSettings, str | None]:
    """Return the settings without `auto`, by what is free on this machine now, and why. Raises ModelLoadFailed."""
    if not is_auto(settings):
        return settings, None
    from deployments.vision.qwen.device import unused_bytes
    from deployments.vision.qwen.load import choose_device

    device = choose_device(settings)
    try:
        free_bytes = unused_bytes(device, gpu_share)
    except RuntimeError as error:
        said = f"a device must tell how much of its memory is free, got {type(error).__name__}"
        raise ModelLoadFailed(said) from error
    return choose(settings, free_bytes=free_bytes, on_gpu=device.type == "cuda")
