"""What people should be told of the figures: pure functions, and all their thresholds."""

from collections.abc import Callable, Iterator

from serve_app.figures import Alert, Stats

STORAGE_LOW_BYTES = 10 * 2**30
"""Less room than this on a local store's disk is worth a word before nothing is taken in any more."""
QUEUE_STUCK_S = 120.0
"""The oldest queued analysis has waited for so long, and for as long no clip got an outcome."""
FAILING_CLIPS = 20
"""Fewer clips than this say nothing about the share that fails."""
FAILING_SHARE, FAILING_SHARE_CRITICAL = 0.1, 0.5
"""Shares of failed clips among those that were not reused."""

_GIB = 2**30


def alerts_of(stats: Stats) -> list[Alert]:
    """Return what is wrong, the critical first; a figure that is unknown (null) gives no alert."""
    found = [alert for rule in _RULES for alert in rule(stats)]
    return sorted(found, key=lambda alert: alert.severity != "critical")


def _storage(stats: Stats) -> Iterator[Alert]:
    free_bytes = stats.storage.free_bytes
    if not stats.storage.admitting:
        yield Alert(
            code="storage_full",
            severity="critical",
            message="expected room on the storage, got too little: no upload and no analysis is taken in",
        )
    elif free_bytes is not None and free_bytes < STORAGE_LOW_BYTES:
        yield Alert(
            code="storage_nearly_full",
            severity="warning",
            message=f"expected {STORAGE_LOW_BYTES // _GIB} GiB free on the storage's disk, "
            f"got {free_bytes / _GIB:.1f} GiB",
        )


def _models(stats: Stats) -> Iterator[Alert]:
    for model in stats.models:
        if model.state == "failed":
            yield Alert(
                code="model_load_failed",
                severity="critical",
                message=f"expected {model.id} to load, got: {model.error or 'no reason'}",
                model=model.id,
            )
        elif model.replicas is not None and model.replicas.running == 0 and model.replicas.wanted > 0:
            yield Alert(
                code="model_without_replica",
                severity="critical",
                message=f"expected {model.replicas.wanted} replicas of {model.id}, got none that runs",
                model=model.id,
            )


def _runners(stats: Stats) -> Iterator[Alert]:
    if stats.runners is not None and stats.runners.running == 0:
        yield Alert(
            code="no_runner",
            severity="critical",
            message="expected a runner, got none: analyses are accepted and wait",
        )


def _queue(stats: Stats) -> Iterator[Alert]:
    waited_s, last_at = stats.analyses.oldest_queued_s, stats.clips.last_at
    if waited_s is None or waited_s < QUEUE_STUCK_S:
        return
    if last_at is None or stats.at - last_at >= QUEUE_STUCK_S:
        yield Alert(
            code="queue_stuck",
            severity="warning",
            message=f"expected the queue to move, got an analysis that has waited {waited_s:.0f} s, and no clip done "
            f"for {QUEUE_STUCK_S:.0f} s",
        )


def _clips(stats: Stats) -> Iterator[Alert]:
    clips = stats.clips
    tried = clips.described + clips.failed
    share = clips.failed / tried if tried else 0.0
    if tried >= FAILING_CLIPS and share >= FAILING_SHARE:
        codes = ", ".join(sorted(clips.failed_by_code))
        yield Alert(
            code="clips_failing",
            severity="critical" if share >= FAILING_SHARE_CRITICAL else "warning",
            message=f"expected captions, got {clips.failed} of {tried} clips failed lately: {codes}",
        )


_RULES: tuple[Callable[[Stats], Iterator[Alert]], ...] = (_storage, _models, _runners, _queue, _clips)


class AlertClock:
    """Remembers since when each alert has stood."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str | None], float] = {}

    def dated(self, alerts: list[Alert], at_s: float) -> list[Alert]:
        """Return the alerts of the moment `at_s` (seconds since 1970) with the moment when each was first seen."""
        self._since = {(alert.code, alert.model): self._since.get((alert.code, alert.model), at_s) for alert in alerts}
        return [alert.model_copy(update={"since": self._since[alert.code, alert.model]}) for alert in alerts]
