"""Take the figures of the whole service: from the ledger, the runners' reports in it, and the deployments that run."""

import asyncio
import importlib.metadata
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from obstore.store import ObjectStore

from deployments.errors import StorageFull
from deployments.vision.deployment import ModelStatus
from pipelines import store as objects
from serve_app.alerts import AlertClock, alerts_of
from serve_app.analyses.queue import queue_times
from serve_app.analyses.reports import STALE_S, Reports
from serve_app.analyses.service import Analyses
from serve_app.analyses.tally import KEPT_MINUTES, Minute, Report
from serve_app.figures import (
    AnalysisFigures,
    ClipFigures,
    DeviceMemory,
    FinishedAnalyses,
    GatewayFigures,
    ModelFigures,
    ReplicaCount,
    Stats,
    StorageFigures,
    UploadFigures,
)
from serve_app.files import Files

_FRESH_S = 1.0
"""However many ask, the figures are taken at most so often."""
_WINDOW_MINUTES = 5


@dataclass(frozen=True, slots=True)
class Replicas:
    """The replicas of each deployment; None and nothing while Serve does not say."""

    gateway: ReplicaCount | None = None
    runners: ReplicaCount | None = None
    models: Mapping[str, ReplicaCount] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StatsSources:
    """What the figures come from beside the store."""

    files: Files
    analyses: Analyses
    model_statuses: Callable[[], Awaitable[list[ModelStatus]]]
    replicas: Callable[[], Awaitable[Replicas]]
    uploads: Callable[[], UploadFigures]


@dataclass(frozen=True, slots=True)
class Taken:
    """The figures, and the reports that they rest on."""

    stats: Stats
    reports: list[Report]


class Statistics:
    """The figures as one gateway replica takes them. It costs one look at the queue and the reports, however much was
    ever done; `started_s` is when the replica began, by its monotonic clock."""

    def __init__(self, store: ObjectStore, sources: StatsSources, *, started_s: float) -> None:
        self._store = store
        self._sources = sources
        self._started_s = started_s
        self._reports = Reports(store)
        self._alerts = AlertClock()
        self._version = importlib.metadata.version("vidray")
        self._taking = asyncio.Lock()
        self._taken: Taken | None = None
        self._fresh_until_s = 0.0

    async def now(self) -> Taken:
        """Return the figures, at most a second old. Raises StorageFailed."""
        async with self._taking:
            if self._taken is None or time.monotonic() >= self._fresh_until_s:
                self._taken = await self._take()
                self._fresh_until_s = time.monotonic() + _FRESH_S
            return self._taken

    async def _take(self) -> Taken:
        sources = self._sources
        waiting, reports, statuses, replicas = await asyncio.gather(
            queue_times(self._store), self._reports.read(), sources.model_statuses(), sources.replicas()
        )
        now_s = time.time()
        alive = [report for report in reports if now_s - report.at_s < STALE_S]
        in_flight = sum((report.in_flight for report in alive), Counter[str]())
        stats = Stats(
            at=now_s,
            version=self._version,
            analyses=_analyses(waiting, alive, reports, now_s),
            clips=_clips(in_flight, reports, now_s),
            models=[_model(status, replicas.models.get(status.info.name), in_flight) for status in statuses],
            runners=replicas.runners,
            gateway=GatewayFigures(
                replicas=replicas.gateway,
                uptime_s=round(time.monotonic() - self._started_s, 1),
                watchers=sources.analyses.watchers,
            ),
            storage=self._storage(),
            uploads=sources.uploads(),
            alerts=[],
        )
        alerts = self._alerts.dated(alerts_of(stats), now_s)
        return Taken(stats.model_copy(update={"alerts": alerts}), reports)

    def _storage(self) -> StorageFigures:
        try:
            self._sources.files.require_room(0)
            admitting = True
        except StorageFull:
            admitting = False
        return StorageFigures.model_validate(
            {
                "kind": objects.kind_of(self._store),
                "free_bytes": objects.free_bytes(self._store),
                "admitting": admitting,
            }
        )


def _analyses(
    waiting: Mapping[str, float], alive: Iterable[Report], reports: Iterable[Report], now_s: float
) -> AnalysisFigures:
    running = waiting.keys() & {one for report in alive for one in report.running}
    queued_since = [since_s for one, since_s in waiting.items() if one not in running]
    finished = sum((minute.finished for minute in _minutes(reports, now_s, KEPT_MINUTES)), Counter[str]())
    return AnalysisFigures(
        queued=len(queued_since),
        running=len(running),
        oldest_queued_s=round(max(0.0, now_s - min(queued_since)), 1) if queued_since else None,
        finished_last_hour=FinishedAnalyses.model_validate(finished),
    )


def _clips(in_flight: Counter[str], reports: list[Report], now_s: float) -> ClipFigures:
    window, hour = _minutes(reports, now_s, _WINDOW_MINUTES), _minutes(reports, now_s, KEPT_MINUTES)
    window_s = now_s % 60.0 + (_WINDOW_MINUTES - 1) * 60.0
    failed = sum((minute.failed for minute in window), Counter[str]())
    described = sum(minute.described for minute in window)
    reused_hour = sum(minute.reused for minute in hour)
    captions_hour = reused_hour + sum(minute.described for minute in hour)
    return ClipFigures(
        in_flight=in_flight.total(),
        window_s=round(window_s, 1),
        described=described,
        reused=sum(minute.reused for minute in window),
        failed=failed.total(),
        failed_by_code=failed,
        described_per_s=round(described / window_s, 3),
        reused_share_last_hour=round(reused_hour / captions_hour, 3) if captions_hour else None,
        last_at=max((report.last_clip_at_s for report in reports if report.last_clip_at_s is not None), default=None),
    )


def _minutes(reports: Iterable[Report], now_s: float, last: int) -> list[Minute]:
    """Return what every runner did in the present minute and those before it, `last` in all."""
    oldest = int(now_s // 60) - last
    return [minute for report in reports for at, minute in report.minutes.items() if at > oldest]


def _model(status: ModelStatus, replicas: ReplicaCount | None, in_flight: Counter[str]) -> ModelFigures:
    name = status.info.name
    return ModelFigures(
        id=name,
        state=status.state,
        error=status.error,
        replicas=replicas,
        clips_in_flight=in_flight[name],
        clips_queued=status.queued_clips if replicas is not None and replicas.running == 1 else None,
        memory=None if status.memory is None else DeviceMemory.model_validate(status.memory, from_attributes=True),
    )
