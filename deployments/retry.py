"""When to try again: arithmetic only, so that every caller waits the same way."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` tries in all; the n-th wait is `first_wait_s * factor**(n-1)`, at most `longest_wait_s`.

    `jitter` is the share by which a wait may be shorter or longer, so that many callers do not return at once.
    """

    attempts: int = 3
    first_wait_s: float = 1.0
    longest_wait_s: float = 100.0
    factor: float = 2.0
    jitter: float = 0.2

    def wait_s(self, failures: int, rng: random.Random) -> float:
        """Return the seconds to wait after the given number of failures (1 or more)."""
        exact = min(self.longest_wait_s, self.first_wait_s * self.factor ** (failures - 1))
        return exact * rng.uniform(1 - self.jitter, 1 + self.jitter)
