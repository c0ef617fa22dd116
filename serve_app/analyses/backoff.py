"""Rounds that failed are left alone for a while, longer after each failure."""

import random
import time
from collections.abc import Container
from dataclasses import dataclass

from deployments.retry import RetryPolicy
from serve_app.analyses.queue import Waiting

POLICY = RetryPolicy()


@dataclass(slots=True)
class _Failures:
    count: int
    not_before_s: float


class Backoff:
    """One runner's failures. A round that is cancelled since has none, and is ended at once."""

    def __init__(self) -> None:
        self._failures: dict[Waiting, _Failures] = {}
        self._rng = random.Random()

    def __len__(self) -> int:
        return len(self._failures)

    def keep(self, waiting: Container[Waiting]) -> None:
        """Forget all rounds but these."""
        self._failures = {one: failures for one, failures in self._failures.items() if one in waiting}

    def is_due(self, one: Waiting) -> bool:
        """Say whether the round may be tried."""
        failures = self._failures.get(one)
        return failures is None or time.monotonic() >= failures.not_before_s

    def failed(self, one: Waiting) -> float:
        """Return the seconds for which the round is left alone after one more failure."""
        failures = self._failures.setdefault(one, _Failures(0, 0.0))
        failures.count += 1
        wait_s = POLICY.wait_s(failures.count, self._rng)
        failures.not_before_s = time.monotonic() + wait_s
        return round(wait_s, 1)
