"""How much may be under way on a device at once: learnt from what was used, lowered by what did not fit."""

from deployments.vision.engine import MemoryReading

_GIB = 2**30
_FRAMES_BY_FREE_BYTES = ((8 * _GIB, 1), (16 * _GIB, 5), (24 * _GIB, 10))
_MOST_FRAMES = 20
_KEPT_FREE = 0.1
"""Of the free memory: allocators lose some to holes, and other processes on the device move."""
_SHORT = 0.95
"""Of the most that was ever free: with less, something beside the clips under way holds what a clip may lack."""
_STEP_UP = 2.0
"""How many times the tokens that have been seen to fit may be tried next: memory grows faster than tokens do."""
_STEP_DOWN = 0.7
_RECOVERY = 1.05
"""What a limit found by running out grows by each time that it held a clip back: what took the memory may be gone."""


def first_frames(free_bytes: int) -> int:
    """Return how many frames may go together on a device of which nothing is known but its free memory."""
    return next((frames for below, frames in _FRAMES_BY_FREE_BYTES if free_bytes < below), _MOST_FRAMES)


class MemoryBudget:
    """Says how many tokens may be under way, counted as the cache holds them: sequences times the longest one.

    Before anything was read it goes by frames and the bytes that are free. From each reading with a new peak it learns
    the bytes that a token takes, all that comes with it included.
    """

    def __init__(self, loaded: MemoryReading | None) -> None:
        """Take the reading of the loaded model's device with nothing under way; None: there is no bound."""
        self._first_frames = None if loaded is None else first_frames(loaded.free_bytes)
        self._most_free_bytes = 0 if loaded is None else loaded.free_bytes
        self._peak_bytes = 0
        self._bytes_per_token: float | None = None
        self._fitted_tokens = 0
        self._byte_tokens = 0.0
        self._found_tokens: float | None = None
        self._held_back = False

    @property
    def tokens(self) -> int | None:
        """Most tokens under way; None where nothing is known yet but frames."""
        bounds = [] if self._found_tokens is None else [self._found_tokens]
        if self._bytes_per_token is not None:
            bounds += [self._byte_tokens, _STEP_UP * self._fitted_tokens]
        return int(min(bounds)) if bounds else None

    def fits(self, tokens: int, *, frames: int) -> bool:
        """May so many tokens with so many frames be under way?"""
        if self._bytes_per_token is None and self._first_frames is not None and frames > self._first_frames:
            return False
        if self._found_tokens is not None and tokens > self._found_tokens:
            self._held_back = True
        return self.tokens is None or tokens <= self.tokens

    def fitted(self, tokens: int, reading: MemoryReading | None) -> None:
        """Learn from what so many tokens took."""
        if reading is None:
            return
        self._most_free_bytes = max(self._most_free_bytes, reading.free_bytes)
        self._fitted_tokens = max(self._fitted_tokens, tokens)
        # Memory that is kept for later hides what less than the most so far takes, and is there for as many as it was.
        if reading.peak_bytes > self._peak_bytes or self._bytes_per_token is None:
            self._peak_bytes = max(reading.peak_bytes, 1)
            self._bytes_per_token = self._peak_bytes / self._fitted_tokens
        self._byte_tokens = (1 - _KEPT_FREE) * max(reading.free_bytes, 0) / self._bytes_per_token
        if self._found_tokens is not None and self._held_back:
            self._found_tokens *= _RECOVERY
        self._held_back = False

    def is_short(self, reading: MemoryReading | None) -> bool:
        """Is there less to take than there once was, so that what does not fit now may fit later?"""
        return reading is not None and reading.free_bytes < _SHORT * self._most_free_bytes

    def ran_out(self, tokens: int) -> None:
        """Lower the budget: so many tokens did not fit."""
        known = self.tokens
        self._found_tokens = max(_STEP_DOWN * (tokens if known is None else min(tokens, known)), 1.0)
