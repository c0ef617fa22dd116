"""When a replica is beyond use: its engine is lost, only fails, hangs, or does not come to be loaded."""

import time

from deployments.errors import EngineFailed
from deployments.vision.batcher import ClipBatcher

_BROKEN_AFTER_FAILURES = 16
"""Engine calls that fail one after the other before the device, not the clips, is taken to be at fault."""


def require_progress(batcher: ClipBatcher, *, loading_since_s: float | None) -> None:
    """Raise EngineFailed where the engine gets nowhere; `loading_since_s` is by the monotonic clock, None: no load."""
    if batcher.lost is not None:
        raise batcher.lost
    if batcher.failures_in_a_row >= _BROKEN_AFTER_FAILURES:
        raise EngineFailed(f"the engine must succeed now and then, got {batcher.failures_in_a_row} failures in a row")
    now_s, tuning = time.monotonic(), batcher.tuning
    if loading_since_s is not None and now_s - loading_since_s > tuning.load_deadline_s:
        load_s = now_s - loading_since_s
        raise EngineFailed(f"a model must be loaded within {tuning.load_deadline_s:g} s, got {load_s:.0f} s")
    # A busy engine is judged by the call it is in: a check queued behind it would only wait.
    if batcher.busy_since_s is not None and now_s - batcher.busy_since_s > tuning.call_deadline_s:
        busy_s = now_s - batcher.busy_since_s
        raise EngineFailed(f"an engine call must end within {tuning.call_deadline_s:g} s, got {busy_s:.0f} s")
