"""What a replica tells of its work while it works: an observer that ignores it, for where nobody listens."""

from deployments.contracts import Caption
from deployments.vision.engine import MemoryReading


class Observer:
    """Hears of each thing that a replica's metrics count. Called on the event loop; must be quick."""

    def loaded(self, load_s: float, memory: MemoryReading | None) -> None:
        """The weights are on the device."""

    def unloaded(self) -> None:
        """The device was given back."""

    def checked(self, utilisation: float | None) -> None:
        """The loaded model is well; its device had work for this share of the last moments, where that is told."""

    def unhealthy(self) -> None:
        """The model cannot be used, and the replica is to be replaced."""

    def waiting(self, clips: int) -> None:
        """So many clips wait for the engine."""

    def began(self, *, clips: int, frames: int, cache_tokens: int, memory: MemoryReading | None) -> None:
        """Clips with so many frames were read; with them the cache holds `cache_tokens`."""

    def ended(self, caption: Caption, *, frames: int) -> None:
        """A clip's caption is written."""

    def ran_out_of_memory(self) -> None:
        """What was tried did not fit and is tried again in parts."""

    def failed(self) -> None:
        """An engine call failed otherwise."""
